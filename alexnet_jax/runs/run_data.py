"""What a run knows of its data: class names, sizes, mean image and colour PCA.

Measured at the first start, from the training set, and kept in `data.json` and
`mean.npy`: a network can be used without its data. The statistics of several processes
come from these files as well: the main process measures, the others read.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from alexnet_jax.data.dataset import LARGEST_SIZE
from alexnet_jax.data.loading.pipeline import Pipeline, measure_statistics
from alexnet_jax.data.statistics import Statistics, load_statistics
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError, first_line


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """What a work directory knows of its data without opening them."""

    class_names: tuple[str, ...]
    size: int
    crop: int
    fingerprint: str
    statistics: Statistics


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
        statistics = load_statistics(workdir, description)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)[:160]})") from error
    return Data(tuple(names), size, crop, fingerprint, statistics)


def write_data(workdir: Path, data: Data) -> None:
    """Write what `read_data` reads."""
    data.statistics.save_mean(workdir)
    description = {
        "class_names": data.class_names,
        "size": data.size,
        "crop": data.crop,
        "fingerprint": data.fingerprint,
        **data.statistics.to_json(),
    }
    workdirs.write_json(workdir / workdirs.DATA_FILE, description)


def measure(
    workdir: Path,
    pipeline: Pipeline,
    check: Callable[[], None],
    init_from: Path | None = None,
) -> None:
    """Write the data's names and statistics, unless an earlier start did.

    Args:
      workdir: of the run.
      pipeline: its data.
      check: called again and again while the images are read; it may raise.
      init_from: work directory of the pretrained network that the run starts with.

    Raises:
      InputError: if the mean image of that network does not fit these images.
    """
    if (workdir / workdirs.DATA_FILE).exists():
        return
    dataset = pipeline.dataset
    # Read first: to measure the data may take long.
    mean = _mean(pipeline, init_from)
    statistics = dataset.statistics
    if statistics is None:
        total = len(dataset.splits["train"])
        with progress.counted("mean image and colours", total) as count:

            def advance(done: int) -> None:
                count(done)
                check()

            statistics = measure_statistics(pipeline, advance)
    if mean is not None:
        statistics = dataclasses.replace(statistics, mean=mean)
    data = Data(
        class_names=dataset.class_names,
        size=dataset.size,
        crop=pipeline.crop,
        fingerprint=dataset.fingerprint,
        statistics=statistics,
    )
    write_data(workdir, data)


def _mean(
    pipeline: Pipeline, init_from: Path | None
) -> Float[np.ndarray, "size size 3"] | None:
    """The mean image to subtract, if it is not the training set's own; says which."""
    size = pipeline.dataset.size
    if not pipeline.subtract_mean:
        mean, whose = np.zeros((size, size, 3), np.float32), "none is subtracted"
    elif init_from is not None and pipeline.mean == "pretrained":
        mean, whose = _pretrained_mean(init_from, size), f"that of {init_from}"
    else:
        mean, whose = None, "that of the data set"
    if init_from is not None:
        progress.say(f"mean image: {whose}")
    return mean


def _pretrained_mean(source: Path, size: int) -> Float[np.ndarray, "size size 3"]:
    """The mean image that a network was trained with, for images of another run."""
    workdirs.read_config(source)
    mean = read_data(source).statistics.mean
    if len(mean) == size:
        return mean
    if (mean != mean[0, 0]).any():
        raise InputError(
            f"train.init_from={source} was trained on images stored at {len(mean)} "
            f"pixels a side, and these are stored at {size}, which its mean image does "
            f"not fit; use images of {len(mean)} pixels, or set data.mean=dataset for "
            "the mean image of these"
        )
    # A mean of each channel alone fits images of any size.
    return np.full((size, size, 3), mean[0, 0])
