"""What a data set is: splits of examples, class names, statistics."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data.statistics import Statistics
from alexnet_jax.runtime.errors import InputError


# Side of a stored image, in pixels.
LARGEST_SIZE = 4096


class Example(TypedDict):
    """One stored image, `size` pixels a side, and its class."""

    image: UInt8[np.ndarray, "size size 3"]
    label: int


@runtime_checkable
class Source(Protocol):
    """Random access to examples, the same at every reading."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def label(self, index: int) -> int:
        """The example's class; found without decoding its image, which may be broken.

        Raises:
          InputError: if it can't be read.
        """
        ...

    def name(self, index: int) -> str:
        """The example's name, unique within the source."""
        ...

    def where(self, index: int) -> str:
        """The file and the place in it, for messages; found without reading it."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set.

    Attributes:
      splits: a source for each split, `train` and `validation`.
      class_names: a readable name for each label; two classes may share a name.
      class_ids: what distinguishes the classes: the folder's name, ImageNet's WNID.
      size: side of the stored images, in pixels.
      fingerprint: changes when the examples change.
      parts: fingerprints of parts of the examples, by a name for messages, where a run
        can continue with some of them changed; see `parts_of`.
      statistics: of the training images, where they are already known.
      left_out: how many files beside the images are no examples, by the reason.
      notes: what else a user should know of it before it is used, a line each.
    """

    splits: Mapping[str, Source]
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]
    size: int
    fingerprint: str
    statistics: Statistics | None = None
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def check_label(label: int, classes: int, name: Callable[[], str]) -> None:
    """Raise an InputError if an example of this name has none of so many classes."""
    if not 0 <= label < classes:
        raise InputError(
            f"{name()} has the class {label}, and the {classes} classes are 0 to "
            f"{classes - 1}"
        )


def fingerprint(parts: Iterable[str]) -> str:
    """A checksum of all parts in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()
