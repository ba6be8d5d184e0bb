"""Opens a data set of any kind by the name of its source."""

from collections.abc import Callable

from alexnet_jax.data.dataset import LARGEST_SIZE, Dataset
from alexnet_jax.data.image_tree import printable, say_left_out
from alexnet_jax.data.prepared.record import open_prepared
from alexnet_jax.data.sources.digits import open_digits
from alexnet_jax.data.sources.folder import open_folder
from alexnet_jax.data.sources.imagenet import open_imagenet
from alexnet_jax.data.sources.tfds import open_tfds
from alexnet_jax.runtime import paths, progress
from alexnet_jax.runtime.errors import InputError, check_number


SOURCES: dict[str, Callable[[str | None, int, float], Dataset]] = {
    "digits": open_digits,
    "folder": open_folder,
    "imagenet": open_imagenet,
    "prepared": open_prepared,
    "tfds": open_tfds,
}


def open_dataset(
    *, source: str, path: str | None, size: int, validation_fraction: float
) -> Dataset:
    """Open a data set.

    Args:
      source: its kind: `digits`, `folder`, `imagenet`, `prepared` or `tfds`.
      path: its folder, or its name in TensorFlow Datasets; None for the digits.
      size: side of the stored images, in pixels; a prepared data set has its own, and
        training refuses another.
      validation_fraction: the fraction held out where there is no validation split.

    Raises:
      InputError: if it does not exist, is not what the source expects, or has a single
        class or a split without images.
    """
    if source not in SOURCES:
        raise InputError(
            f"data.source={source!r} unknown; choose from {', '.join(sorted(SOURCES))}"
        )
    check_number("data.size", size, least=1, below=LARGEST_SIZE + 1)
    if not 0 < validation_fraction < 1:
        raise InputError(
            f"data.validation_fraction={validation_fraction} must lie between 0 and 1"
        )
    if path is not None:
        path = str(paths.local(path, "data.path"))
    dataset = SOURCES[source](path, size, validation_fraction)
    where = path or source
    if len(dataset.class_names) < 2:
        raise InputError(
            f"{printable(where)} has one class, {', '.join(dataset.class_names)}, and "
            "a network tells two classes or more apart"
        )
    for split, examples in dataset.splits.items():
        if not len(examples):
            raise InputError(f"{printable(where)} has no image of split {split}")
    return dataset


def say_about(dataset: Dataset, where: str) -> None:
    """Print what was left out of a data set, and what else a user should know of it."""
    for note in dataset.notes:
        progress.say(note)
    say_left_out(where, dataset.left_out)
