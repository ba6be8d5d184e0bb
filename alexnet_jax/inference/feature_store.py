"""Files that features are written to, row by row: Zarr and NPY.

Beside an output that is not finished lies a note of how far it has come, and of the
work it belongs to.
"""

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from alexnet_jax.runtime import atomic, optional
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError, first_line


# Longer names are cut off in Zarr, where all have the same room.
NAME_BYTES = 256

# Of every array by name: its rows.
Columns = Mapping[str, np.ndarray]
# Writes columns, names and labels from a row on.
Write = Callable[[int, Columns, Sequence[str], Sequence[int]], None]


class Output:
    """Rows are appended to it; `done` are written, of which `refused` are NaN."""

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self._path = path
        self._job = dict(job)
        self._note = path.with_name(path.name + ".progress.json")
        self.write: Write | None = None
        self.done = self.refused = 0
        self.resumed = self._note.exists()
        if self.resumed:
            self._resume()
        elif path.exists():
            raise InputError(f"{path} is there already; remove it, or choose another")
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path} can't be written: its folder isn't there")

    def _resume(self) -> None:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            job, self.done, self.refused = note["job"], note["done"], note["refused"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._note} is damaged ({first_line(error)}); remove it and "
                f"{self._path}"
            ) from error
        if job != self._job:
            raise InputError(
                f"{self._path} holds the beginning of other features "
                f"({self._note} says of which); give that command again, or remove both"
            )

    def append(
        self,
        columns: Columns,
        names: Sequence[str],
        labels: Sequence[int],
        refused: int,
    ) -> None:
        """Write the next rows, of which so many are refused."""
        assert self.write is not None
        with writing(self._path):
            self.write(self.done, columns, names, labels)
        self.done += len(names)
        self.refused += refused
        self.take_note()

    def end(self) -> None:
        """All rows are written."""
        self._note.unlink()

    def take_note(self) -> None:
        """Write down how far it has come; first of all, to have something to go on."""
        note = {"job": self._job, "done": self.done, "refused": self.refused}
        with writing(self._note):
            atomic.write_json(self._note, note)


@contextmanager
def open_output(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    rows_at_once: int,
    job: Mapping[str, Any],
) -> Iterator[Output]:
    """Open an output, or go on with one.

    Args:
      path: its ending says which kind.
      shapes: of each layer's array, rows first.
      rows_at_once: how many rows every `append` but the last brings.
      job: what tells this work from any other.

    Raises:
      InputError: if it is there already, belongs to other work, or can't be written.
    """
    kinds: dict[str, Callable[..., AbstractContextManager[Write]]]
    kinds = {".zarr": _zarr, ".npy": _npy}
    if path.suffix not in kinds:
        raise InputError(f"--output={path} must end in .zarr or .npy")
    output = Output(path, job)
    with kinds[path.suffix](path, shapes, rows_at_once, output) as output.write:
        yield output
    if output.done == next(iter(shapes.values()))[0]:
        output.end()


@contextmanager
def _npy(
    path: Path, shapes: Mapping[str, tuple[int, ...]], rows_at_once: int, output: Output
) -> Iterator[Write]:
    """One layer as an NPY file, names and labels as a CSV file beside it."""
    if len(shapes) > 1:
        raise InputError(f"--output={path} takes one layer; name a .zarr for several")
    ((layer, shape),) = shapes.items()
    table_path = path.with_suffix(".csv")
    if not output.resumed and table_path.exists():
        raise InputError(f"{table_path} is there already; remove it, or move it")
    output.take_note()
    done = output.done
    kind = np.dtype(np.float32)
    header = {"descr": kind.str, "fortran_order": False, "shape": shape}
    row_bytes = int(np.prod(shape[1:])) * kind.itemsize
    mode = "r+b" if done else "w+b"
    with writing(path):
        array, table = path.open(mode), table_path.open(mode)
    with array, table:
        with writing(path):
            np.lib.format.write_array_header_1_0(array, header)
            if not done:
                table.write(b"name,label\n")
            # A process that was killed may have written past its last note.
            _cut(array, array.tell() + done * row_bytes)
            table.seek(0)
            lines = list(itertools.islice(table, done + 1))
            # A line that is missing makes it longer than it is.
            _cut(table, sum(map(len, lines)) + (done + 1 - len(lines)))

        def write(
            _: int, columns: Columns, names: Sequence[str], labels: Sequence[int]
        ) -> None:
            array.write(np.ascontiguousarray(columns[layer]).data)
            for name, label in zip(names, labels, strict=True):
                table.write(_row(name, label))
            for file in (array, table):
                file.flush()
                os.fsync(file.fileno())

        yield write


def _cut(file: BinaryIO, length: int) -> None:
    """Cut a file to a length that it must have at least."""
    file.flush()
    if os.fstat(file.fileno()).st_size < length:
        raise InputError(
            f"{file.name} is shorter than what was written; remove it, and what lies "
            "beside it, to begin anew"
        )
    file.seek(length)
    file.truncate()


def _row(name: str, label: int) -> bytes:
    """A line of a CSV file; one line, so that rows can be counted."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([name.replace("\n", "\\n"), label])
    return line.getvalue().encode()


@contextmanager
def _zarr(
    path: Path, shapes: Mapping[str, tuple[int, ...]], rows_at_once: int, output: Output
) -> Iterator[Write]:
    """A Zarr group with an array for each layer, and `name` and `label`."""
    zarr = optional.require("zarr", path)
    output.take_note()
    with writing(path):
        mode = "r+" if output.done else "w"
        group = zarr.open_group(path, mode=mode, zarr_format=2)
    if not output.done:
        total = next(iter(shapes.values()))[0]
        kinds: dict[str, tuple[tuple[int, ...], Any]] = {
            name: (shape, np.float32) for name, shape in shapes.items()
        }
        kinds["name"] = ((total,), np.dtype(f"S{NAME_BYTES}"))
        kinds["label"] = ((total,), np.int32)
        for name, (shape, kind) in kinds.items():
            # A chunk is a batch's rows: written whole, and only once.
            chunks = (rows_at_once, *shape[1:])
            group.create_array(name, shape=shape, chunks=chunks, dtype=kind)

    def write(
        start: int, columns: Columns, names: Sequence[str], labels: Sequence[int]
    ) -> None:
        encoded = np.asarray([name.encode() for name in names], f"S{NAME_BYTES}")
        more = {"name": encoded, "label": np.asarray(labels, np.int32)}
        for name, rows in {**columns, **more}.items():
            group[name][start : start + len(names)] = rows

    yield write
