"""Sources of encoded images: each is read, decoded and cropped when it is asked for."""

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data import decoding
from alexnet_jax.data.dataset import Example, Source, fingerprint
from alexnet_jax.data.image_tree import cannot_read, printable
from alexnet_jax.runtime import patience
from alexnet_jax.runtime.errors import InputError, UnreadableImage


MAX_NAME_BYTES = 4096


class EncodedImage(NamedTuple):
    """An image file: where it lies, for messages, its class and its bytes."""

    where: str
    label: int
    data: bytes


class StoredImage(NamedTuple):
    """An image as it is stored, its class, and what was repaired in its file."""

    label: int
    image: UInt8[np.ndarray, "size size 3"]
    repaired: tuple[str, ...]


class EncodedSource(Source, abc.ABC):
    """A source whose examples are encoded images, so that it can be prepared.

    Attributes:
      size: side of the decoded images, in pixels.
      recommends_preparing: whether reading at random, as training does, takes far more
        time than reading in order.
    """

    size: int
    recommends_preparing: ClassVar[bool] = False

    @abc.abstractmethod
    def encoded(self, index: int) -> EncodedImage:
        """The image, still encoded.

        Raises:
          InputError: if it can't be read.
        """

    def label(self, index: int) -> int:
        """The image's class."""
        return self.encoded(index).label

    @abc.abstractmethod
    def subset(self, start: int, stop: int) -> "EncodedSource":
        """The images from `start` to before `stop`, small enough to be pickled."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Changes when the files change: by names, classes and lengths."""

    def stored(self, index: int) -> StoredImage:
        """The image, decoded and cut.

        Raises:
          InputError: if it can't be read or decoded.
        """
        where, label, data = self.encoded(index)
        return StoredImage(label, *decoding.decode(data, where, size=self.size))

    def __getitem__(self, index: int) -> Example:
        label, image, _ = self.stored(index)
        return {"image": image, "label": label}


class FileEntry(NamedTuple):
    """Where an image's bytes lie: a whole file, or a part of an archive.

    Attributes:
      name: unique within the source.
      path: of the file that holds it, relative to the source's root, as the system
        spells it.
      offset: of its bytes; 0 for a whole file.
      length: of its bytes; 0 where it can't be read.
    """

    name: str
    label: int
    path: str
    offset: int
    length: int


@dataclasses.dataclass(frozen=True)
class FileSource(EncodedSource):
    """Images in files of a folder, or in archives there, which are read in place."""

    root: Path
    entries: tuple[FileEntry, ...] = dataclasses.field(repr=False)
    size: int

    def __len__(self) -> int:
        return len(self.entries)

    def label(self, index: int) -> int:
        """The image's class, known without reading the file."""
        return self.entries[index].label

    def name(self, index: int) -> str:
        """The file's name, relative to the root or to the archive."""
        return self.entries[index].name

    def where(self, index: int) -> str:
        """The file's path, or the archive's with the name within it."""
        entry = self.entries[index]
        path = printable(self.root / entry.path)
        return f"{path}: {entry.name}" if entry.offset else path

    def encoded(self, index: int) -> EncodedImage:
        """The image's bytes.

        Raises:
          InputError: if they can't be read, or have changed since.
          Failure: if the drive is away, and stays away.
        """
        entry, where = self.entries[index], self.where(index)
        decoding.check_bytes(entry.length, where)
        path = self.root / entry.path

        def read() -> bytes:
            # A file by itself: one byte more, to see whether it has grown.
            return self._read(path, entry.offset, entry.length + (not entry.offset))

        try:
            data = patience.read(self.root, where, read)
        except OSError as error:
            raise cannot_read(path, error) from error
        if len(data) != entry.length:
            raise UnreadableImage(
                f"{where} no longer has its {entry.length} bytes; it has changed "
                "since it was opened"
            )
        return EncodedImage(where, entry.label, data)

    @staticmethod
    def _read(path: Path, offset: int, length: int) -> bytes:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(length)

    def subset(self, start: int, stop: int) -> "FileSource":
        """The images from `start` to before `stop`."""
        return dataclasses.replace(self, entries=self.entries[start:stop])

    def fingerprint(self) -> str:
        """Of names, classes and lengths."""
        return fingerprint(f"{e.name}/{e.label}/{e.length}" for e in self.entries)

    def fingerprint_of_names(self) -> str:
        """Of names and classes: it stays when a file's bytes change."""
        return fingerprint(f"{e.name}/{e.label}" for e in self.entries)


def parts_of(splits: Mapping[str, FileSource]) -> dict[str, str]:
    """The fingerprints of what may change by itself: which training images there are,
    their lengths, the validation images."""
    return {
        "training images": splits["train"].fingerprint_of_names(),
        "training files": splits["train"].fingerprint(),
        "validation images": splits["validation"].fingerprint(),
    }


def check_name(name: str, where: object) -> None:
    """Raise an InputError if a file's name can't be stored in a record."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} has a file whose name is not UTF-8, {name!a}; rename it"
        ) from error
    if length > MAX_NAME_BYTES:
        raise InputError(f"{where} has a file with a name of {length} bytes; refused")
