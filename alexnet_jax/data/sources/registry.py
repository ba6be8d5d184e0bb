"""Opens a data set of any kind by the name of its source."""

import dataclasses
import os
from collections.abc import Callable

from alexnet_jax.data.dataset import LARGEST_SIZE, Dataset
from alexnet_jax.data.image_tree import printable, say_left_out
from alexnet_jax.data.prepared.record import open_prepared
from alexnet_jax.data.sources import imagenet_classes, own
from alexnet_jax.data.sources.arrays import open_arrays
from alexnet_jax.data.sources.digits import open_digits
from alexnet_jax.data.sources.folder import open_folder
from alexnet_jax.data.sources.holding_out import OTHER_CLASSES
from alexnet_jax.data.sources.imagenet import open_imagenet
from alexnet_jax.data.sources.parquet import open_parquet
from alexnet_jax.data.sources.tfds import open_tfds
from alexnet_jax.data.sources.webdataset import open_webdataset
from alexnet_jax.runtime import paths, progress
from alexnet_jax.runtime.errors import InputError, check_choice, check_number


SOURCES: dict[str, Callable[..., Dataset]] = {
    "arrays": open_arrays,
    "digits": open_digits,
    "folder": open_folder,
    "imagenet": open_imagenet,
    "parquet": open_parquet,
    "prepared": open_prepared,
    "tfds": open_tfds,
    "webdataset": open_webdataset,
}
# Side of the stored images, in pixels (section 2), and the fraction that is held out
# where there is no validation split.
SIZE, VALIDATION_FRACTION = 256, 0.1
# What can be set beside the path, the size and the fraction.
OPTIONS = {
    "folder": ("other_classes",),
    "imagenet": ("other_classes",),
    "parquet": ("image_key", "label_key", "other_classes"),
    "tfds": ("image_key", "label_key", "other_classes"),
    "webdataset": ("image_key", "label_key", "other_classes"),
}


def open_dataset(
    *,
    source: str,
    path: str | None,
    size: int,
    validation_fraction: float,
    image_key: str | None = None,
    label_key: str | None = None,
    other_classes: str = "stop",
) -> Dataset:
    """Open a data set.

    Args:
      source: its kind: `prepared`, `folder`, `imagenet`, `parquet`, `tfds`,
        `webdataset`, `arrays` or `digits`; or a function of your own, given as
        MODULE:FUNCTION.
      path: its folder or file, or its name in TensorFlow Datasets; None for the digits.
      size: side of the stored images, in pixels; a prepared data set has its own, and
        training refuses another.
      validation_fraction: the fraction held out where there is no validation split.
      image_key, label_key: what images and classes are called in the data set: a
        column, a feature, a file's ending or a key of its JSON; None for what holds
        images and classes there.
      other_classes: what happens to images of a class that only one split has: `stop`
        refuses a class of validation images alone; `skip` leaves all such images out.

    Raises:
      InputError: if it does not exist, is not what the source expects, or has a single
        class or a split without images.
    """
    if source not in SOURCES and not own.is_own(source):
        raise InputError(
            f"data.source={source!r} unknown; choose from "
            f"{', '.join(sorted(SOURCES))}, or give a function of your own as "
            "MODULE:FUNCTION"
        )
    check_number("data.size", size, least=1, below=LARGEST_SIZE + 1)
    if not 0 < validation_fraction < 1:
        raise InputError(
            f"data.validation_fraction={validation_fraction} must lie between 0 and 1"
        )
    check_choice("data.other_classes", other_classes, OTHER_CLASSES)
    options = _options(
        source,
        image_key=(image_key, None),
        label_key=(label_key, None),
        other_classes=(other_classes, "stop"),
    )
    if own.is_own(source):
        # Not checked: an address may be what the function takes.
        path = None if path is None else os.path.expanduser(path)
        dataset = own.open_own(source, path, size, validation_fraction)
    else:
        if path is not None:
            path = str(paths.local(path, "data.path"))
        dataset = SOURCES[source](path, size, validation_fraction, **options)
    _check_filled(dataset, path or source)
    return _with_readable_names(dataset)


def _check_filled(dataset: Dataset, where: str) -> None:
    """Raise an InputError if there is a single class, or a split without images."""
    if not dataset.class_names:
        raise InputError(f"{printable(where)} has no images of any class")
    if len(dataset.class_names) < 2:
        raise InputError(
            f"{printable(where)} has one class, {', '.join(dataset.class_names)}, and "
            "a network tells two classes or more apart"
        )
    for split, examples in dataset.splits.items():
        if not len(examples):
            raise InputError(f"{printable(where)} has no image of split {split}")


def _options(source: str, **given: tuple[str | None, str | None]) -> dict[str, object]:
    """The options of a source; those that it lacks must have their default, which comes
    second."""
    known = OPTIONS.get(source, ())
    for name, (value, default) in given.items():
        if name not in known and value != default:
            having = [other for other, names in OPTIONS.items() if name in names]
            raise InputError(
                f"data.{name}={value} has no meaning for the source {source}, only for "
                f"{', '.join(having)}; leave it out"
            )
    return {name: given[name][0] for name in known}


def _with_readable_names(dataset: Dataset) -> Dataset:
    """A data set whose classes are called by WNIDs, with readable names for them."""
    if dataset.class_names != dataset.class_ids:
        return dataset
    names = imagenet_classes.readable(dataset.class_ids)
    return dataclasses.replace(dataset, class_names=names)


def say_about(dataset: Dataset, where: str) -> None:
    """Print what was left out of a data set, and what else a user should know of it."""
    for note in dataset.notes:
        progress.say(note)
    say_left_out(where, dataset.left_out)
