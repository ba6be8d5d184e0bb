"""Features of one layer as an NPY file."""

import csv
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet_jax.inference.feature_file import (
    Columns,
    Contents,
    FeatureFile,
    as_bytes,
)
from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError, first_line


class NpyFile(FeatureFile):
    """An NPY file; beside it names and labels as CSV, and the attributes as JSON."""

    def __init__(self, path: Path, contents: Contents) -> None:
        super().__init__(path, contents)
        if len(contents.shapes) > 1:
            raise InputError(
                f"--output={path} takes one layer; name a .zarr or .h5 for several"
            )
        ((self._layer, self._shape),) = contents.shapes.items()
        self._array: BinaryIO | None = None
        self._table: BinaryIO | None = None

    @property
    def beside(self) -> tuple[Path, ...]:
        """The table and the attributes."""
        return self.path.with_suffix(".csv"), self.path.with_suffix(".json")

    def open(self, done: int) -> None:
        """Make the files for all rows, or cut off what `done` does not count."""
        table_path, about_path = self.beside
        if not done:
            with writing(about_path):
                atomic.write_json(about_path, self.contents.attributes)
        self._first_row = self._reserve(new=not done)
        self._row_bytes = int(np.prod(self._shape[1:])) * np.dtype(np.float32).itemsize
        with writing(self.path):
            self._array = self.path.open("r+b")
            self._table = table_path.open("r+b" if done else "w+b")
            # Bytes after the last row would be no part of an NPY file.
            self._array.truncate(self._first_row + self._shape[0] * self._row_bytes)
            if not done:
                self._table.write(b"name,label\n")
            _keep_lines(self._table, 1 + done)

    def _reserve(self, *, new: bool) -> int:
        """Make or check the file for all rows; returns where the first one begins.

        A new file has its whole length, but takes room on the disk only as rows are
        written, where the file system allows it.
        """
        try:
            with writing(self.path):
                array = np.lib.format.open_memmap(
                    self.path,
                    mode="w+" if new else "r",
                    dtype=np.float32,
                    shape=self._shape,
                )
            if array.shape != self._shape or array.dtype != np.float32:
                raise ValueError(f"{array.dtype} of {array.shape}")
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise self.damaged(first_line(error)) from error
        return array.offset

    def write(
        self, start: int, columns: Columns, names: Sequence[str], labels: Sequence[int]
    ) -> None:
        """As bytes of the file and not through a memory map: a disk that is full is
        then an OSError, where a map would end the process; and mapped pages would count
        as its memory."""
        assert self._array is not None and self._table is not None
        self._array.seek(self._first_row + start * self._row_bytes)
        self._array.write(as_bytes(columns[self._layer]))
        for name, label in zip(names, labels, strict=True):
            self._table.write(_row(name, label))

    def sync(self, start: int, stop: int) -> None:
        """Both files."""
        for file in (self._array, self._table):
            assert file is not None
            file.flush()
            atomic.sync_open(file.fileno())

    def close(self) -> None:
        """Both files."""
        for file in (self._array, self._table):
            if file is not None:
                file.close()


def _keep_lines(file: BinaryIO, count: int) -> None:
    """Cut a text file after so many lines, which it must have at least."""
    file.seek(0)
    lines = list(itertools.islice(file, count))
    if len(lines) < count or not lines[-1].endswith(b"\n"):
        raise InputError(
            f"{file.name} is shorter than what was written; choose another --output"
        )
    length = sum(map(len, lines))
    file.seek(length)
    file.truncate()


def _row(name: str, label: int) -> bytes:
    """A line of a CSV file; one line, so that rows can be counted."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([name.replace("\n", "\\n"), label])
    return line.getvalue().encode()
