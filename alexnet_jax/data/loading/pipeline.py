"""A data set, and how its images are read and augmented: the config section `data`."""

import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loading import later_recipes
from alexnet_jax.data.sources.randomized import corrupt
from alexnet_jax.data.sources.registry import SIZE, VALIDATION_FRACTION, open_dataset
from alexnet_jax.runtime.errors import InputError, check_choice, check_number
from alexnet_jax.runtime.process_pool import check_main, cores


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """An open data set and how it is read. Threads, workers, buffer and hold change
    only the speed.

    Attributes:
      crop: side of the square the network sees, in pixels.
      crops: whether training crops are random; if not, the centre.
      flip: whether training crops are flipped left to right at random.
      crop_area: turns on crops of random area and shape, resized to `crop`: the least
        area, as a fraction of the stored image's (0.08 in Szegedy et al. 2015).
      mixup: turns on mixed pairs of training images and of their labels, with weights
        of the distribution Beta(mixup, mixup) (0.2 in Zhang et al. 2018).
      cutmix: turns on patches out of the other image of a pair, whose label counts by
        their area, of the distribution Beta(cutmix, cutmix) but for what is cut at the
        border (1.0 in Yun et al. 2019).
      randaugment: turns on two operations on each training crop, out of twelve of
        colour and geometry (RandAugment, Cubuk et al. 2020), of this part of their
        greatest strength, from 0 to 1 (0.3 in torchvision, whose ranges these are).
      subtract_mean: whether the mean image is subtracted from crops; if not, zeros.
      mean: whose mean image is subtracted in a run that starts from a pretrained one
        (`train.init_from`): `pretrained`, the mean that the network was trained with,
        or `dataset`, that of the new training set. Other runs have the training set's.
      threads: threads that read and decode each batch together, in each worker; None
        divides the cores among the workers.
      workers: processes that read and decode; 0 for none. Threads decode in parallel,
        so processes help only where there are so many cores that Python itself is the
        limit.
      buffer: batches made ahead; None for two.
      timeout: seconds a batch may take, before its disk or worker counts as hanging.
      on_error: what happens to images that can't be read: `stop` ends the run with a
        list of them; `skip` leaves out those found before the first step, and puts the
        next image of the same class in the place of those found later.
      hold: where the stored images of a training lie: `host` reads and decodes them for
        every step; `device` reads them once, before the first step, onto every device,
        which cuts the crops; `auto` does so on a GPU or TPU if they fit into 40 % of
        its memory. Validation images are held as well if both fit. `evaluate`,
        `predict` and `features` read from the host.

    Raises:
      InputError: if an argument is out of range.
    """

    dataset: Dataset
    _: dataclasses.KW_ONLY
    crop: int = 224
    crops: bool = True
    flip: bool = True
    crop_area: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: float = 0.0
    subtract_mean: bool = True
    mean: str = "pretrained"
    threads: int | None = None
    workers: int = 0
    buffer: int | None = None
    timeout: float = 300.0
    on_error: str = "stop"
    hold: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.dataset.size:
            raise InputError(
                f"data.crop={self.crop} must lie between 1 and the stored images' side "
                f"of {self.dataset.size}"
            )
        later_recipes.check(crops=self.crops, crop_area=self.crop_area, **self.recipes)
        check_choice("data.mean", self.mean, ("pretrained", "dataset"))
        for name, value in (("threads", self.threads), ("buffer", self.buffer)):
            if value is not None:
                check_number(f"data.{name}", value, least=1)
        check_number("data.workers", self.workers)
        if self.workers:
            check_main("data.workers=0")
        if not 0 < self.timeout < threading.TIMEOUT_MAX:
            raise InputError(
                f"data.timeout={self.timeout} must be above 0 and finite, in seconds"
            )
        check_choice("data.on_error", self.on_error, ("stop", "skip"))
        check_choice("data.hold", self.hold, ("auto", "host", "device"))

    @property
    def recipes(self) -> dict[str, float]:
        """The options of `later_recipes.drawn`."""
        return {name: getattr(self, name) for name in later_recipes.OPTIONS}

    @property
    def threads_each(self) -> int:
        """The threads of each worker, or of this process where there is none."""
        return self.threads or max(1, cores() // max(1, self.workers))


def open_pipeline(
    *,
    source: str = "prepared",
    path: str | None = None,
    size: int = SIZE,
    validation_fraction: float = VALIDATION_FRACTION,
    image_key: str | None = None,
    label_key: str | None = None,
    other_classes: str = "stop",
    random_labels: float = 0.0,
    pixels: str = "true",
    corruption_seed: int = 0,
    crop: int = Pipeline.crop,
    crops: bool = Pipeline.crops,
    flip: bool = Pipeline.flip,
    crop_area: float | None = Pipeline.crop_area,
    mixup: float = Pipeline.mixup,
    cutmix: float = Pipeline.cutmix,
    randaugment: float = Pipeline.randaugment,
    subtract_mean: bool = Pipeline.subtract_mean,
    mean: str = Pipeline.mean,
    threads: int | None = Pipeline.threads,
    workers: int = Pipeline.workers,
    buffer: int | None = Pipeline.buffer,
    timeout: float = Pipeline.timeout,
    on_error: str = Pipeline.on_error,
    hold: str = Pipeline.hold,
) -> Pipeline:
    """Open a data set for training and evaluation: the config section `data`.

    Args:
      source, path, size, validation_fraction: see `open_dataset`.
      image_key, label_key, other_classes: see `open_dataset`.
      random_labels, pixels: see `corrupt`.
      corruption_seed: of the draws of `random_labels` and `pixels`.
      crop, crops, flip, crop_area, mixup, cutmix, randaugment: see `Pipeline`.
      subtract_mean, mean, threads, workers, buffer: see `Pipeline`.
      timeout, on_error, hold: see `Pipeline`.

    Raises:
      InputError: if the data set can't be opened or a number is out of range.
    """
    dataset = open_dataset(
        source=source,
        path=path,
        size=size,
        validation_fraction=validation_fraction,
        image_key=image_key,
        label_key=label_key,
        other_classes=other_classes,
    )
    dataset = corrupt(
        dataset, random_labels=random_labels, pixels=pixels, seed=corruption_seed
    )
    return Pipeline(
        dataset,
        crop=crop,
        crops=crops,
        flip=flip,
        crop_area=crop_area,
        mixup=mixup,
        cutmix=cutmix,
        randaugment=randaugment,
        subtract_mean=subtract_mean,
        mean=mean,
        threads=threads,
        workers=workers,
        buffer=buffer,
        timeout=timeout,
        on_error=on_error,
        hold=hold,
    )


def reading(section: Mapping[str, object]) -> dict[str, Any]:
    """The keys of a `data` section that say how a data set is read, and not which."""
    taken = {field.name for field in dataclasses.fields(Pipeline)}
    return {key: value for key, value in section.items() if key in taken}


# What presets change of the defaults of `open_pipeline`.
PRESETS: dict[str, dict[str, int]] = {
    # Zhang et al. 2017, appendix A: 28x28, each image standardized by itself.
    "small": {"crop": 28, "subtract_mean": False},
    # Section 4.1, the first form of augmentation: random crops and horizontal flips.
    "no_crops": {"crops": False, "flip": False},
    # Crops of BVLC's networks (BVLC/caffe, models/).
    "caffe": {"crop": 227},
    "caffenet": {"crop": 227},
}
