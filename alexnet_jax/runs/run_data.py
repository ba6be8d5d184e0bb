"""What a run knows of its data: class names, sizes, mean image and colour PCA.

Measured at the first start, from the training set, and kept in `data.json` and
`mean.npy`: a network can be used without its data. The statistics of several processes
come from these files as well: the main process measures, the others read.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from alexnet_jax.data.dataset import LARGEST_SIZE, Dataset
from alexnet_jax.data.decoding import RESIZES
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.sources import imagenet_classes
from alexnet_jax.data.statistics import Statistics, load_statistics
from alexnet_jax.runs import unreadable_images
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError, first_line


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """What a work directory knows of its data without opening them; see `Dataset`.

    Attributes:
      parts: fingerprints of parts of the data; older runs have none.
      resize: how an image becomes a square where the network is used, one of
        `decoding.RESIZES`; imported weights have their publisher's way.
    """

    class_names: tuple[str, ...]
    size: int
    crop: int
    fingerprint: str
    statistics: Statistics
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    resize: str = "square"


def read_data(workdir: Path) -> Data:
    """What the work directory of a run knows of its data.

    Raises:
      InputError: if it is missing or inconsistent.
    """
    path = workdir / workdirs.DATA_FILE
    description = workdirs.read_json(path)
    try:
        names, fingerprint = description["class_names"], description["fingerprint"]
        size, crop = description["size"], description["crop"]
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ValueError("class_names")
        if not isinstance(size, int) or not isinstance(crop, int):
            raise ValueError(f"size {size!r:.40}, crop {crop!r:.40}")
        if not names or not 0 < crop <= size <= LARGEST_SIZE:
            raise ValueError(f"{len(names)} class_names, size {size}, crop {crop}")
        if not isinstance(fingerprint, str):
            raise ValueError("fingerprint")
        parts = description.get("parts", {})
        if not isinstance(parts, dict):
            raise ValueError("parts")
        resize = str(description.get("resize", Data.resize))
        if resize not in RESIZES:
            raise ValueError(f"resize {resize!r:.40}")
        statistics = load_statistics(workdir, description)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)[:160]})") from error
    # Older runs on ImageNet's folders noted WNIDs, as other data sets may.
    names = imagenet_classes.readable(names)
    return Data(names, size, crop, fingerprint, statistics, parts, resize)


def has_same_training_images(data: Data, dataset: Dataset) -> bool:
    """Whether a data set has the training images of a run, by their names and labels,
    wherever it lies and whatever became of the files; of data without parts, whether
    nothing has changed."""
    if data.parts and dataset.parts:
        part = "training images"
        return data.parts.get(part) == dataset.parts.get(part)
    return data.fingerprint == dataset.fingerprint


def check_data(workdir: Path, pipeline: Pipeline) -> None:
    """Check that a run that has saved in the directory can continue with these data.

    Changed validation images change what is measured and no step, unless the learning
    rate follows them: they are a warning. So are training images of other lengths where
    the run replaces what can't be read, for these may be the ones.

    Raises:
      InputError: if other data would decide the next steps.
    """
    path, dataset = workdir / workdirs.DATA_FILE, pipeline.dataset
    if not workdirs.has_checkpoints(workdir) or not path.exists():
        return
    known = workdirs.read_json(path)
    if known.get("fingerprint") == dataset.fingerprint:
        return
    parts = known.get("parts")
    # Without parts, on either side, all that is known is that something differs.
    changed = ["the data"]
    if isinstance(parts, dict) and parts and dataset.parts:
        changed = [p for p, print in dataset.parts.items() if parts.get(p) != print]
    forgiven = {"validation images"}
    if pipeline.on_error == "skip":
        forgiven.add("training files")
    if not set(changed) <= forgiven:
        advice = ""
        if changed == ["training files"]:
            advice = (
                "; if some can't be read, --config.data.on_error=skip replaces them"
            )
        raise InputError(
            f"{' and '.join(changed)} differ from those that the run in {workdir} was "
            f"started with; give the same data, or another --workdir{advice}"
        )
    progress.say(
        f"warning: {' and '.join(changed)} differ from those that the run was started "
        "with: errors before and after this start are not of the same images"
    )


def write_data(workdir: Path, data: Data) -> None:
    """Write what `read_data` reads."""
    data.statistics.save_mean(workdir)
    description = {
        "class_names": data.class_names,
        "size": data.size,
        "crop": data.crop,
        "fingerprint": data.fingerprint,
        "parts": dict(data.parts),
        "resize": data.resize,
        **data.statistics.to_json(),
    }
    workdirs.write_json(workdir / workdirs.DATA_FILE, description)


def note_data(workdir: Path, pipeline: Pipeline, init_from: Path | None = None) -> None:
    """Write the data's names and statistics, unless an earlier start did.

    Args:
      workdir: of the run.
      pipeline: its data.
      init_from: work directory of the pretrained network that the run starts with.

    Raises:
      InputError: if the mean image of that network does not fit these images.
    """
    if (workdir / workdirs.DATA_FILE).exists():
        return
    dataset = pipeline.dataset
    mean = _mean(pipeline, init_from)
    statistics = dataset.statistics
    if statistics is None:
        statistics = unreadable_images.measure(workdir, pipeline)
    if mean is not None:
        statistics = dataclasses.replace(statistics, mean=mean)
    data = Data(
        class_names=dataset.class_names,
        size=dataset.size,
        crop=pipeline.crop,
        fingerprint=dataset.fingerprint,
        statistics=statistics,
        parts=dataset.parts,
    )
    write_data(workdir, data)


def _mean(
    pipeline: Pipeline, init_from: Path | None
) -> Float[np.ndarray, "size size 3"] | None:
    """The mean image to subtract, if it is not the training set's own; says which."""
    size = pipeline.dataset.size
    mean = pretrained_mean(pipeline, init_from)
    whose = "that of the data set" if mean is None else f"that of {init_from}"
    if not pipeline.subtract_mean:
        mean, whose = np.zeros((size, size, 3), np.float32), "none is subtracted"
    if init_from is not None:
        progress.say(f"mean image: {whose}")
    return mean


def pretrained_mean(
    pipeline: Pipeline, init_from: Path | None
) -> Float[np.ndarray, "size size 3"] | None:
    """The mean image that a pretrained network was trained with, if a run takes it.

    Args:
      pipeline: the run's data.
      init_from: work directory of the network that the run starts with.

    Raises:
      InputError: if it is of images of another size.
    """
    if init_from is None or pipeline.mean != "pretrained" or not pipeline.subtract_mean:
        return None
    workdirs.read_config(init_from)
    mean, size = read_data(init_from).statistics.mean, pipeline.dataset.size
    if len(mean) == size:
        return mean
    if (mean != mean[0, 0]).any():
        raise InputError(
            f"train.init_from={init_from} was trained on images stored at {len(mean)} "
            f"pixels a side, and these are stored at {size}, which its mean image does "
            f"not fit; use images of {len(mean)} pixels, or set data.mean=dataset for "
            "the mean image of these"
        )
    # A mean of each channel alone fits images of any size.
    return np.full((size, size, 3), mean[0, 0])
