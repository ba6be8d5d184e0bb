"""What every format of features does, and what is written in any of them."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.runtime.errors import InputError


# Each array's rows, by name.
Columns = Mapping[str, np.ndarray]
# Each array's shape, by name; rows first.
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What an output is to hold.

    Attributes:
      shapes: of each array, by name.
      rows_at_once: how many rows every `write` but the last brings.
      attributes: what the output says of itself, as JSON.
      longest_name: finds the length of the longest name in bytes, which may take a
        while; asked by formats that make room for names before they are written.
    """

    shapes: Shapes
    rows_at_once: int
    attributes: Mapping[str, object]
    longest_name: Callable[[], int]

    @property
    def total(self) -> int:
        """How many rows."""
        return next(iter(self.shapes.values()))[0]


class FeatureFile(abc.ABC):
    """An output in one format. It checks what is wrong when it is made, and writes
    nothing before `open`.

    Raises:
      InputError: if the format can't hold the contents, or a package is missing.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        self.path = path
        self.contents = contents

    @property
    def beside(self) -> tuple[Path, ...]:
        """The files that it writes beside the output."""
        return ()

    @abc.abstractmethod
    def open(self, done: int) -> None:
        """Make the output, or open it where `done` rows are written.

        Raises:
          InputError: if it holds fewer, or is damaged.
        """

    @abc.abstractmethod
    def write(
        self, start: int, columns: Columns, names: Sequence[str], labels: Sequence[int]
    ) -> None:
        """Write columns, names and labels from a row on."""

    @abc.abstractmethod
    def sync(self, start: int, stop: int) -> None:
        """Return when the rows from one on, up to another, are on the disk."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close what is open; nothing if nothing is."""

    def damaged(self, reason: str) -> InputError:
        """The error for an output that can't be continued."""
        return InputError(
            f"{self.path} is shorter than what was written, or damaged ({reason}); "
            "choose another --output"
        )


def as_bytes(rows: np.ndarray) -> memoryview:
    """Rows as they lie in a file."""
    return np.ascontiguousarray(rows).data
