"""What a data set is: splits of examples, class names, statistics."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data.statistics import Statistics


# Side of a stored picture, in pixels.
LARGEST_SIZE = 4096


class Example(TypedDict):
    """One stored picture, `size` pixels a side, and its class."""

    image: UInt8[np.ndarray, "size size 3"]
    label: int


@runtime_checkable
class Source(Protocol):
    """Random access to examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """What the example can be found by."""
        ...

    def where(self, index: int) -> str:
        """The file and place the example is read from, told without reading it."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The two splits of a data set and what is known of it.

    Attributes:
      splits: a source for each split, `train` and `validation`.
      class_names: a name to read for each label; two classes may share one.
      class_ids: what tells the classes apart: the folder's name, ImageNet's WNID.
      size: side of the stored pictures, in pixels.
      fingerprint: changes when the examples change.
      statistics: of the training pictures, where they were measured before.
    """

    splits: Mapping[str, Source]
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]
    size: int
    fingerprint: str
    statistics: Statistics | None = None


def fingerprint(parts: Iterable[str]) -> str:
    """One name for all the parts in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()
