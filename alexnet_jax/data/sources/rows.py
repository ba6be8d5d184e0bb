"""Sources whose images are rows of files that hold many: Parquet, TFRecord, tars."""

import abc
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from alexnet_jax.data import decoding
from alexnet_jax.data.dataset import Dataset, fingerprint
from alexnet_jax.data.encoded import EncodedImage, EncodedSource, check_name
from alexnet_jax.data.image_tree import LeftOut, printable
from alexnet_jax.data.sources import holding_out, imagenet_classes
from alexnet_jax.runtime import patience
from alexnet_jax.runtime.errors import InputError, UnreadableImage, check_choice


# A larger label is an image's own number, a time or the like.
MOST_CLASSES = 1_000_000


class Rows(NamedTuple):
    """Which rows of which files hold a split's images.

    Attributes:
      file: the number of each image's file.
      number: its row in the file.
      label: its class.
      place: where in the file its bytes are; what the numbers mean is the source's.
      names: their names, or None where they have none.
    """

    file: Int32[np.ndarray, " images"]
    number: Int64[np.ndarray, " images"]
    label: Int32[np.ndarray, " images"]
    place: Int64[np.ndarray, "images numbers"]
    names: np.ndarray | None

    def take(self, chosen: slice | np.ndarray) -> "Rows":
        """Some of the images."""
        names = None if self.names is None else self.names[chosen]
        return Rows(
            self.file[chosen],
            self.number[chosen],
            self.label[chosen],
            self.place[chosen],
            names,
        )


class ShardFile(NamedTuple):
    """A file that holds many images: its path, relative to the root, and its length."""

    path: str
    length: int


@dataclasses.dataclass(frozen=True, eq=False)
class RowSource(EncodedSource):
    """The encoded images of one split, in rows of files.

    Attributes:
      root: the folder that the files' paths begin in.
      files: those of the split.
      rows: which of their rows.
      split: its name, for the names of images that have none.
    """

    root: Path
    files: tuple[ShardFile, ...] = dataclasses.field(repr=False)
    rows: Rows = dataclasses.field(repr=False)
    split: str
    size: int

    def __len__(self) -> int:
        return len(self.rows.label)

    def label(self, index: int) -> int:
        """The image's class, known without reading it."""
        return int(self.rows.label[index])

    def name(self, index: int) -> str:
        """The image's own name, or one made of split, file and row."""
        if self.rows.names is not None:
            return str(self.rows.names[index])
        file = self.files[self.rows.file[index]].path
        return f"{self.split}/{printable(file)}/{self.rows.number[index]}"

    def where(self, index: int) -> str:
        """The file and the row, with the image's own name at the end."""
        path = printable(self.root / self.files[self.rows.file[index]].path)
        place = f"{path}, row {self.rows.number[index]}"
        if self.rows.names is None:
            return place
        return f"{place}: {self.rows.names[index]}"

    def encoded(self, index: int) -> EncodedImage:
        """The image, still encoded.

        Raises:
          InputError: if it can't be read.
          Failure: if the drive is away, and stays away.
        """
        where = self.where(index)
        path = self.root / self.files[self.rows.file[index]].path
        data = patience.read(self.root, where, lambda: self._read(path, index, where))
        if not data:
            raise UnreadableImage(f"{where} has no image, only an empty field")
        decoding.check_bytes(len(data), where)
        return EncodedImage(where, self.label(index), data)

    @abc.abstractmethod
    def _read(self, path: Path, index: int, where: str) -> bytes | None:
        """The bytes of an image in the file of this path."""

    def subset(self, start: int, stop: int) -> "RowSource":
        """The images from `start` to before `stop`."""
        return self.select(slice(start, stop))

    def select(self, chosen: slice | np.ndarray) -> "RowSource":
        """Some of the images."""
        return dataclasses.replace(self, rows=self.rows.take(chosen))

    def fingerprint(self) -> str:
        """Of the files' names and lengths, and of rows, names and classes."""
        used = np.unique(self.rows.file).tolist()
        files = (f"{self.files[k].path}/{self.files[k].length}" for k in used)
        rows = (
            f"{self.name(k)}/{self.rows.number[k]}/{self.label(k)}"
            for k in range(len(self))
        )
        return fingerprint(itertools.chain(files, rows))


def row_dataset(
    where: str,
    splits: Mapping[str, RowSource],
    classes: Sequence[str],
    *,
    validation_fraction: float,
    other_classes: str,
    left_out: LeftOut,
    notes: Sequence[str] = (),
) -> Dataset:
    """A data set of the splits `train` and `validation`, or of `train` alone, of which
    a fraction of each class is then held out.

    Args:
      where: the input, for messages.
      splits: the images; their labels number `classes`.
      classes: the names of the classes, or their WNIDs.
      validation_fraction: see `open_dataset`.
      other_classes: see `open_dataset`.
      left_out: how many files are left out, by the reason.
      notes: what a user should know of it.

    Raises:
      InputError: if a class has too few images, or only the validation images have it.
    """
    check_choice("data.other_classes", other_classes, holding_out.OTHER_CLASSES)
    named = {split: _named(source) for split, source in splits.items()}
    if "validation" not in named:
        named = _hold_out(named["train"], validation_fraction, classes)
    ids = imagenet_classes.class_ids(classes)
    present = {s: np.unique(source.rows.label) for s, source in named.items()}
    shared = np.intersect1d(present["train"], present["validation"])
    holding_out.check_strangers(
        where,
        [ids[k] for k in np.setdiff1d(present["validation"], present["train"])],
        "the training split",
        other_classes,
        shared=len(shared) > 0,
    )
    held_out = {ids[k] for k in present["validation"]}
    notes = [
        *notes,
        *holding_out.lacking(where, [ids[k] for k in present["train"]], held_out),
    ]
    if other_classes == "skip":
        kept = {s: _of_classes(source, shared) for s, source in named.items()}
        dropped = sum(len(named[split]) - len(kept[split]) for split in named)
        left_out = left_out + +LeftOut({holding_out.REASON: dropped})
        named, ids = kept, tuple(ids[k] for k in shared)
    names = tuple(classes) if ids == tuple(classes) else ids
    return Dataset(
        splits=named,
        class_names=names,
        class_ids=ids,
        size=named["train"].size,
        fingerprint=fingerprint(f"{s}/{x.fingerprint()}" for s, x in named.items()),
        left_out=left_out,
        notes=tuple(notes),
    )


def _named(source: RowSource) -> RowSource:
    """The source; without names where images lack them or share them."""
    names = source.rows.names
    if names is None:
        return source
    if all(names) and len(set(names)) == len(names):
        for name in names:
            check_name(name, source.root)
        return source
    return dataclasses.replace(source, rows=source.rows._replace(names=None))


def _hold_out(
    source: RowSource, fraction: float, classes: Sequence[str]
) -> dict[str, RowSource]:
    """The images that are kept for training, and those that are held out."""
    if not len(source):
        return {"train": source, "validation": source}
    order = np.argsort(source.rows.label, kind="stable")
    labels = source.rows.label[order]
    borders = np.flatnonzero(np.diff(labels)) + 1
    chosen = np.zeros(len(source), bool)
    for members in np.split(order, borders):
        names = [source.name(int(place)).encode() for place in members]
        of_class = classes[source.label(int(members[0]))]
        places = holding_out.held_out(names, fraction, of_class)
        chosen[members[sorted(places)]] = True
    return {
        "train": source.select(np.flatnonzero(~chosen)),
        "validation": source.select(np.flatnonzero(chosen)),
    }


def _of_classes(source: RowSource, classes: np.ndarray) -> RowSource:
    """The images of some classes, which are numbered anew in their order."""
    kept = source.select(np.flatnonzero(np.isin(source.rows.label, classes)))
    labels = np.searchsorted(classes, kept.rows.label).astype(np.int32)
    return dataclasses.replace(kept, rows=kept.rows._replace(label=labels))


def numbered_classes(largest: int, where: str) -> tuple[str, ...]:
    """The names of classes that are known by their numbers alone, from 0.

    Raises:
      InputError: if the largest number is more than any set has classes.
    """
    if largest >= MOST_CLASSES:
        raise InputError(
            f"{where} has the label {largest}, which is no number of a class; "
            "data.label_key, or --label_key of `prepare`, names another column or field"
        )
    return tuple(map(str, range(largest + 1)))


def check_labels(
    labels: Sequence[int] | np.ndarray, classes: int, where: str, first_row: int = 0
) -> Int32[np.ndarray, " images"]:
    """Labels as an array.

    Raises:
      InputError: if one is none of the classes; the row is named.
    """
    found = np.asarray(labels, np.int64)
    bad = np.flatnonzero((found < 0) | (found >= classes))
    if len(bad):
        raise InputError(
            f"{where}, row {first_row + bad[0]} has the label {found[bad[0]]}, and "
            f"there are {classes} classes, from 0; {len(bad)} rows in all are so"
        )
    return found.astype(np.int32)
