"""Reads single values of Parquet files, whose rows come in groups of any length."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet_jax.data.image_tree import printable
from alexnet_jax.runtime.errors import InputError, first_line
from alexnet_jax.runtime.optional import require


# An object of the optional package pyarrow, as it comes.
Arrow = Any
# Of what is read from a group some is kept for the images that come next: rows at once,
# and bytes and number of all groups that a process has open, each with its file.
_ROWS_AT_ONCE = 16
_KEPT_BYTES, _KEPT_GROUPS = 2**25, 32


class Reader:
    """Reads single values of Parquet files, and keeps what it has read nearby.

    Threads take turns. It is pickled empty.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[tuple[Path, str, int], _Group] = {}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Reader, ()

    def read(self, path: Path, column: str, group: int, row: int) -> bytes | None:
        """The value of a binary column in a row of a row group; None for a null."""
        key = path, column, group
        with self._lock:
            opened = self._groups.pop(key, None)
            if opened is None or row < opened.start:
                opened = _Group(*key)
            value = opened.value(row)
            self._groups[key] = opened
            while len(self._groups) > 1 and self._is_full():
                self._groups.pop(next(iter(self._groups)))
        return value

    def _is_full(self) -> bool:
        kept = sum(group.bytes for group in self._groups.values())
        return kept > _KEPT_BYTES or len(self._groups) > _KEPT_GROUPS


class _Group:
    """A row group's values of a column, as far as they have been read.

    Attributes:
      start: the first row that is kept.
      bytes: how many are kept.
    """

    def __init__(self, path: Path, column: str, group: int) -> None:
        self.start = self._end = self.bytes = 0
        self._column = column
        self._kept: list[Arrow] = []
        self._file = open_file(path)
        self._batches: Iterator[Arrow] = self._file.iter_batches(
            _ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False
        )

    def value(self, row: int) -> bytes | None:
        """A row's value; rows before `start` are gone."""
        while row >= self._end:
            values = field(next(self._batches), self._column)
            self._end += len(values)
            self._kept.append(values)
            self.bytes += values.nbytes
            # A group too large to be kept whole is kept in part.
            while self.bytes > _KEPT_BYTES and len(self._kept) > 1:
                gone = self._kept.pop(0)
                self.start += len(gone)
                self.bytes -= gone.nbytes
        place = row - self.start
        for values in self._kept:
            if place < len(values):
                return values[place].as_py()
            place -= len(values)
        raise IndexError(row)


def open_file(path: Path) -> Arrow:
    """A Parquet file, of which no more is read at once than is asked for.

    Raises:
      InputError: if it is none.
    """
    reader = require("pyarrow.parquet", "Parquet")
    try:
        return reader.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except Exception as error:
        # Arrow raises many kinds, which may name no file.
        raise InputError(
            f"{printable(path)} is cut off or no Parquet ({first_line(error)}); fetch "
            "it again"
        ) from error


def field(table: Arrow, column: str) -> Arrow:
    """A column of a table or batch, or `column.field`."""
    name, _, field = column.partition(".")
    if name not in table.schema.names:
        name, field = column, ""
    values = table.column(name)
    if not field:
        return values
    compute = require("pyarrow.compute", "Parquet")
    return compute.struct_field(values, field)
