"""The images that features are extracted from, with the labels of their own folders."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data import dataset as datasets
from alexnet_jax.data import image_paths, image_tree
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.prepared import manifest
from alexnet_jax.data.sources.folder import NO_LABEL, images_by_class
from alexnet_jax.data.sources.registry import open_dataset
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


SPLITS = ("train", "validation")
# Held out where a data set has no validation split, as in training by default.
VALIDATION_FRACTION = 0.1


class Row(NamedTuple):
    """An image to extract features from, or why it can't be read."""

    name: str
    label: int
    image: UInt8[np.ndarray, "size size 3"] | None
    error: InputError | None


class Input(NamedTuple):
    """Images in an order.

    Attributes:
      class_names: of the labels.
      splits: how many images of each split there are, one split after the other.
      fingerprint: a checksum of what is read.
      rows: reads them from a number on.
    """

    class_names: tuple[str, ...]
    splits: dict[str, int]
    fingerprint: str
    rows: Callable[[int], Iterator[Row]]

    @property
    def total(self) -> int:
        """How many images."""
        return sum(self.splits.values())


def open_input(
    given: Path | None, size: int, split: str, source: str | None = None
) -> Input:
    """Open the images of a folder or of a data set.

    Args:
      given: the folder; or what `source` opens, which may need nothing.
      size: side of the images that the network takes, in pixels.
      split: `all`, or `train` or `validation` of a data set.
      source: None for a folder of images at any depth, or a prepared data set.

    Raises:
      InputError: if there is no such folder, split or image, or another size is stored.
    """
    if source is None:
        if given is None:
            raise InputError("give --input=FOLDER, or --source=MODULE:FUNCTION")
        if not (given / manifest.DATASET_FILE).is_file():
            return _images(given, size, split)
        source = "prepared"
    dataset = open_dataset(
        source=source,
        path=None if given is None else str(given),
        size=size,
        validation_fraction=VALIDATION_FRACTION,
    )
    return _dataset(dataset, str(given or source), size, split)


def _images(given: Path, size: int, split: str) -> Input:
    """Images at any depth of a folder."""
    if not given.is_dir():
        raise InputError(f"--input={given} is not a folder")
    if split != "all":
        raise InputError(
            f"--split={split} is for a prepared data set; of a folder give that "
            "split's own folder as --input"
        )
    return _folder(given, size)


def _folder(given: Path, size: int) -> Input:
    """Images at any depth, with the classes of their own folders."""
    found = images_by_class(given)
    image_tree.say_left_out(given, found.left_out)
    if not found.images:
        raise InputError(f"--input={image_tree.printable(given)} has no image in it")
    if without := found.labels.count(NO_LABEL):
        progress.say(
            f"{without} of {len(found.labels)} images lie in no class folder; their "
            f"label is {NO_LABEL}"
        )
    names = [image_tree.printable(image.path) for image in found.images]

    def rows(start: int) -> Iterator[Row]:
        paths = [given / image.path for image in found.images[start:]]
        for place, shown in enumerate(image_paths.shown(paths, size), start):
            yield Row(names[place], found.labels[place], shown.image, shown.error)

    checksum = datasets.fingerprint(
        f"{name}/{label}/{image.length}"
        for name, label, image in zip(names, found.labels, found.images, strict=True)
    )
    return Input(found.class_names, {"all": len(names)}, checksum, rows)


def _dataset(dataset: Dataset, given: str, size: int, split: str) -> Input:
    """The examples of a data set."""
    if dataset.size != size:
        raise InputError(
            f"{given} is stored at {dataset.size} pixels a side and the network takes "
            f"{size}; prepare it with --size={size}"
        )
    chosen = SPLITS if split == "all" else (split,)
    sources = {name: dataset.splits[name] for name in chosen}
    places = [(name, i) for name, source in sources.items() for i in range(len(source))]

    def row(place: tuple[str, int]) -> Row:
        source, index = sources[place[0]], place[1]
        try:
            example = source[index]
            name = source.name(index)
        except InputError as error:
            return Row(source.where(index), NO_LABEL, None, error)
        return Row(name, example["label"], example["image"], None)

    return Input(
        dataset.class_names,
        {name: len(source) for name, source in sources.items()},
        f"{dataset.fingerprint}/{split}",
        lambda start: image_paths.ahead(row, places[start:]),
    )
