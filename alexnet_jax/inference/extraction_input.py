"""The images that features are extracted from, with the labels of their own folders."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data import dataset as datasets
from alexnet_jax.data import image_paths, image_tree
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.prepared import manifest
from alexnet_jax.data.sources import registry
from alexnet_jax.data.sources.folder import NO_LABEL, images_by_class
from alexnet_jax.inference import image_arrays, image_input
from alexnet_jax.inference.trained import TrainedNetwork, say_resize
from alexnet_jax.runs.config import completed, section
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


SPLITS = ("train", "validation")


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
      longest_name: the length of the longest name in bytes, which some data sets have
        to be read for.
      cut: whether images are read as they are and made square here; those of a data
        set were, when it was prepared.
    """

    class_names: tuple[str, ...]
    splits: dict[str, int]
    fingerprint: str
    rows: Callable[[int], Iterator[Row]]
    longest_name: Callable[[], int]
    cut: bool

    @property
    def total(self) -> int:
        """How many images."""
        return sum(self.splits.values())


def open_input(
    given: Path | None,
    size: int,
    split: str,
    source: str | None = None,
    *,
    files: Path | None = None,
    resize: str = "square",
    validation_fraction: float = registry.VALIDATION_FRACTION,
) -> Input:
    """Open the images of a folder, a list, an array or a data set.

    Args:
      given: the folder, the file of an array, or the prepared data set; or what
        `source` opens, which may need nothing; or where the paths of `files` begin.
      size: side of the images that the network takes, in pixels.
      split: `all`, or `train` or `validation` of a data set.
      source: None for images or a prepared data set.
      files: a text file with the path of an image on each line.
      resize: how images become squares, one of `decoding.RESIZES`.
      validation_fraction: of a data set without a validation split, held out as in the
        training of a network that had the same fraction.

    Raises:
      InputError: if there is no such folder, split or image, or another size is stored.
    """
    if files is not None:
        if source is not None or split != "all":
            raise InputError("--files takes neither --source nor --split")
        return _listed(files, given or files.parent, size, resize)
    if source is None:
        if given is None:
            raise InputError("give --input=FOLDER, or --source=MODULE:FUNCTION")
        if not (given / manifest.DATASET_FILE).is_file():
            return _images(given, size, split, resize)
        source = "prepared"
    dataset = registry.open_dataset(
        source=source,
        path=None if given is None else str(given),
        size=size,
        validation_fraction=validation_fraction,
    )
    return _dataset(dataset, str(given or source), size, split)


def input_of(
    network: TrainedNetwork,
    given: Path | None,
    split: str,
    source: str | None,
    files: Path | None,
) -> Input:
    """`open_input` with what a network takes: its size, its way of resizing, and the
    split of its training where the data set has none. Says how images are resized.

    Raises:
      InputError: as `open_input`.
    """
    data = network.data
    opened = open_input(
        given,
        data.size,
        split,
        source,
        files=files,
        resize=data.resize,
        validation_fraction=section(completed(network.config), "data")[
            "validation_fraction"
        ],
    )
    if opened.cut:
        say_resize(network)
    return opened


def _images(given: Path, size: int, split: str, resize: str) -> Input:
    """Images at any depth of a folder, or in an array."""
    array = image_arrays.find(given)
    if array is None and not given.is_dir():
        raise InputError(
            f"--input={image_tree.printable(given)} is neither a folder nor a file of "
            f"images as {' or '.join(image_arrays.ENDINGS)}"
        )
    if split != "all":
        raise InputError(
            f"--split={split} is for a prepared data set; of a folder give that "
            "split's own folder as --input"
        )
    if array is not None:
        return _array(*array, size, resize)
    return _folder(given, size, resize)


def _folder(given: Path, size: int, resize: str) -> Input:
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
    paths = [given / image.path for image in found.images]
    names = [image_tree.printable(image.path) for image in found.images]
    lengths = [image.length for image in found.images]
    return _files(paths, names, found.labels, lengths, found.class_names, size, resize)


def _listed(files: Path, folder: Path, size: int, resize: str) -> Input:
    """The images of a list, in its order, called as the list calls them."""
    where = f"--files={image_tree.printable(files)}"
    try:
        text = files.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise InputError(f"{where} can't be read ({error.strerror})") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    listed = {place: line for place, line in enumerate(lines, 1) if line.strip()}
    if not listed:
        raise InputError(f"{where} names no image; give a path on each line")
    paths = [folder / line for line in listed.values()]
    lengths = []
    for place, path in zip(listed, paths, strict=True):
        if not path.is_file():
            raise InputError(
                f"{where}, line {place}: {image_tree.printable(path)} is not a file; "
                "paths begin at --input, or where the list lies"
            )
        lengths.append(path.stat().st_size)
    names = [image_tree.printable(line) for line in listed.values()]
    return _files(paths, names, [NO_LABEL] * len(names), lengths, (), size, resize)


def _files(
    paths: Sequence[Path],
    names: Sequence[str],
    labels: Sequence[int],
    lengths: Sequence[int],
    class_names: tuple[str, ...],
    size: int,
    resize: str,
) -> Input:
    """Image files in an order."""

    def rows(start: int) -> Iterator[Row]:
        every = image_paths.shown(paths[start:], size, resize)
        for place, shown in enumerate(every, start):
            yield Row(names[place], labels[place], shown.image, shown.error)

    checksum = datasets.fingerprint(
        f"{name}/{label}/{length}"
        for name, label, length in zip(names, labels, lengths, strict=True)
    )
    return Input(
        class_names,
        {"all": len(names)},
        checksum,
        rows,
        lambda: max(map(_length, names)),
        cut=True,
    )


def _array(path: Path, dataset: str | None, size: int, resize: str) -> Input:
    """The images of an array, called by their numbers."""
    array = image_arrays.open_array(path, dataset)

    def row(index: int) -> Row:
        try:
            image = image_input.stored(array.read(index), size, resize)[0]
        except InputError as error:
            named = InputError(f"{image_tree.printable(path)}, image {index}: {error}")
            return Row(str(index), NO_LABEL, None, named)
        return Row(str(index), NO_LABEL, image, None)

    return Input(
        (),
        {"all": array.images},
        array.fingerprint,
        lambda start: image_paths.ahead(row, range(start, array.images)),
        lambda: len(str(array.images)),
        cut=True,
    )


def _length(name: str) -> int:
    return len(name.encode("utf-8", "backslashreplace"))


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

    def length(place: tuple[str, int]) -> int:
        # Of an example that can't be read the place takes the name's.
        source, index = sources[place[0]], place[1]
        try:
            name = source.name(index)
        except InputError:
            name = ""
        return max(_length(name), _length(source.where(index)))

    def longest() -> int:
        progress.say(f"reading the names of {len(places):,} images, to make room")
        return max(image_paths.ahead(length, places))

    return Input(
        dataset.class_names,
        {name: len(source) for name, source in sources.items()},
        f"{dataset.fingerprint}/{split}",
        lambda start: image_paths.ahead(row, places[start:]),
        longest,
        cut=False,
    )
