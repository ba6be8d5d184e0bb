"""The images that features are extracted from, with the labels of their own folders."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data import dataset as datasets
from alexnet_jax.data import image_paths
from alexnet_jax.data.prepared import manifest
from alexnet_jax.data.prepared.record import open_prepared
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


SPLITS = ("train", "validation")
# Of an image that lies in no class folder, or whose label can't be read.
NO_LABEL = -1


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


def open_input(given: Path, size: int, split: str) -> Input:
    """Open the images of a folder or of a prepared data set.

    Args:
      given: the folder.
      size: side of the images that the network takes, in pixels.
      split: `train`, `validation` or `all`.

    Raises:
      InputError: if there is no such folder, split or image, or another size is stored.
    """
    if (given / manifest.DATASET_FILE).is_file():
        return _prepared(given, size, split)
    if not given.is_dir():
        raise InputError(f"--input={given} is not a folder")
    return _folder(given, size, split)


def _folder(given: Path, size: int, split: str) -> Input:
    """Images at any depth; the first folder below the one given is their class."""
    paths = image_paths.find([str(given)])
    names = [path.relative_to(given).as_posix() for path in paths]
    classes = [name.split("/")[0] if "/" in name else None for name in names]
    class_names = tuple(sorted({name for name in classes if name is not None}))
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = [NO_LABEL if c is None else numbers[c] for c in classes]
    if without := labels.count(NO_LABEL):
        progress.say(
            f"{without} of {len(labels)} images lie in no class folder of {given}; "
            f"their label is {NO_LABEL}"
        )

    def rows(start: int) -> Iterator[Row]:
        read = image_paths.shown(paths[start:], size)
        for place, (_, image, error) in enumerate(read, start):
            yield Row(names[place], labels[place], image, error)

    checksum = datasets.fingerprint(
        f"{name}/{path.stat().st_size}" for name, path in zip(names, paths, strict=True)
    )
    return Input(class_names, {"all": len(paths)}, checksum, rows)


def _prepared(given: Path, size: int, split: str) -> Input:
    # The set has its own size and splits.
    dataset = open_prepared(str(given), size, validation_fraction=0.1)
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
