"""Sources of picture files as they came: read, decoded and cut when asked for."""

import abc
import dataclasses
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data import images
from alexnet_jax.data.dataset import Example, fingerprint
from alexnet_jax.runtime.errors import InputError


MAX_NAME_BYTES = 4096


class Original(NamedTuple):
    """A picture file: where it lies, for messages, its class and its bytes."""

    where: str
    label: int
    data: bytes


class Originals(abc.ABC):
    """A sequence of picture files, as a source of examples.

    Attributes:
      size: side of the examples' pictures, in pixels.
    """

    size: int

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """What the file can be found by."""

    @abc.abstractmethod
    def original(self, index: int) -> Original:
        """The file.

        Raises:
          InputError: if it can't be read.
        """

    @abc.abstractmethod
    def part(self, start: int, stop: int) -> "Originals":
        """Those from `start` to before `stop`, small enough to send elsewhere."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Changes when the files change: by names, classes and sizes."""

    def __getitem__(self, index: int) -> Example:
        where, label, data = self.original(index)
        picture = images.decode(data, where, size=self.size).picture
        return {"image": picture, "label": label}


class Piece(NamedTuple):
    """Where a picture file lies: in a file, from an offset on.

    Attributes:
      name: unique within the source.
      label: its class.
      path: of the file that holds it, relative to the source's root.
      offset: of its first byte.
      length: how many bytes.
    """

    name: str
    label: int
    path: str
    offset: int
    length: int


@dataclasses.dataclass(frozen=True)
class FileOriginals(Originals):
    """Picture files that are files, or stretches of larger ones.

    Attributes:
      root: what paths are relative to.
      pieces: the picture files.
      size: side of the examples' pictures, in pixels.
    """

    root: Path
    pieces: tuple[Piece, ...]
    size: int

    def __len__(self) -> int:
        return len(self.pieces)

    def __repr__(self) -> str:
        return f"FileOriginals({self.root}, {len(self.pieces)} pictures)"

    def name(self, index: int) -> str:
        """The file's name, relative to the root or to the archive."""
        return self.pieces[index].name

    def where(self, index: int) -> str:
        """The file's path, or the archive's with the name within it."""
        piece = self.pieces[index]
        path = str(self.root / piece.path)
        return path if piece.path == piece.name else f"{path}: {piece.name}"

    def original(self, index: int) -> Original:
        """The file."""
        piece, where = self.pieces[index], self.where(index)
        images.check_bytes(piece.length, where)
        try:
            with (self.root / piece.path).open("rb", buffering=0) as file:
                file.seek(piece.offset)
                # One more where it is a file by itself, to see if it has grown.
                data = file.read(piece.length + (piece.path == piece.name))
        except OSError as error:
            raise InputError(f"{where} can't be read ({error.strerror})") from error
        if len(data) != piece.length:
            raise InputError(
                f"{where} no longer has its {piece.length} bytes; it has changed "
                "meanwhile"
            )
        return Original(where, piece.label, data)

    def part(self, start: int, stop: int) -> "FileOriginals":
        """Those from `start` to before `stop`."""
        return dataclasses.replace(self, pieces=self.pieces[start:stop])

    def fingerprint(self) -> str:
        """Of names, classes and sizes."""
        return fingerprint(f"{p.name}/{p.label}/{p.length}" for p in self.pieces)


def check_name(name: str, where: object) -> None:
    """Raise an InputError if a file's name can't be written down."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} has a file whose name is not UTF-8, {name!a}; rename it"
        ) from error
    if length > MAX_NAME_BYTES:
        raise InputError(f"{where} has a file with a name of {length} bytes; refused")
