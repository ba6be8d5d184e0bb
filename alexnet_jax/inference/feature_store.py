"""Files that features are written to, row by row: Zarr and NPY.

Beside an unfinished output lies a note, `NAME.progress.json`: how many rows are on the
disk, and which work they belong to. It is renewed every few seconds and at the end, so
a process that was killed may have written rows that it does not count; they are written
again.
"""

import csv
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from alexnet_jax.runtime import atomic, optional
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import Failure, InputError, first_line


# Each array's rows, by name.
Columns = Mapping[str, np.ndarray]
# Each array's shape, by name; rows first.
Shapes = Mapping[str, tuple[int, ...]]
# What distinguishes one piece of work from another, as JSON keeps it.
Job = Mapping[str, str | int | list[str]]
# Syncing takes long on some disks, and what a crash loses is computed again.
SECONDS_BETWEEN_NOTES = 5.0


class Writer(NamedTuple):
    """The two things that a format does.

    Attributes:
      write: writes columns, names and labels from a row on.
      sync: returns when the rows from one on, up to another, are on the disk.
    """

    write: Callable[[int, Columns, Sequence[str], Sequence[int]], None]
    sync: Callable[[int, int], None]


class Output:
    """An output to append rows to; `done` are written, of which `refused` are NaN."""

    def __init__(self, path: Path, job: Job) -> None:
        self._path = path
        self._job = dict(job)
        self._note = path.with_name(path.name + ".progress.json")
        self.writer: Writer | None = None
        self.done = self.refused = 0
        self.resumed = self._note.exists()
        if self.resumed:
            self._resume()
        elif path.exists():
            raise InputError(f"{path} exists already; choose another --output")
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path} can't be written: its folder isn't there")
        self._noted, self._when = self.done, time.monotonic()

    def _resume(self) -> None:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            job, self.done, self.refused = note["job"], note["done"], note["refused"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._note} is damaged ({first_line(error)}), so {self._path} can't "
                "be continued; choose another --output"
            ) from error
        if job != self._job:
            raise InputError(
                f"{self._path} holds the beginning of other features "
                f"({self._note} says which); give that command again, or choose "
                "another --output"
            )

    def append(
        self,
        columns: Columns,
        names: Sequence[str],
        labels: Sequence[int],
        refused: int,
    ) -> None:
        """Write the next rows, `refused` of which are NaN."""
        assert self.writer is not None
        with writing(self._path):
            self.writer.write(self.done, columns, names, labels)
        self.done += len(names)
        self.refused += refused
        if time.monotonic() - self._when > SECONDS_BETWEEN_NOTES:
            self.take_note()

    def end(self) -> None:
        """Finish: all rows are written."""
        self._note.unlink()

    def take_note(self) -> None:
        """Record how many rows are written, so that the output can be continued."""
        if self.writer is not None:
            with writing(self._path):
                self.writer.sync(self._noted, self.done)
        self._noted, self._when = self.done, time.monotonic()
        note = {"job": self._job, "done": self.done, "refused": self.refused}
        with writing(self._note):
            atomic.write_json(self._note, note)


@contextmanager
def open_output(
    path: Path,
    shapes: Shapes,
    *,
    rows_at_once: int,
    job: Job,
    attributes: Mapping[str, object],
) -> Iterator[Output]:
    """Open an output, or continue an unfinished one.

    Args:
      path: its ending, .zarr or .npy, decides the format.
      shapes: of each array, by name.
      rows_at_once: how many rows every `append` but the last brings.
      job: what is being done; only the same can be continued.
      attributes: what the output says of itself, as JSON.

    Raises:
      InputError: if it exists, belongs to other work, or can't be written.
    """
    opener = {".zarr": _zarr, ".npy": _npy}.get(path.suffix)
    if opener is None:
        raise InputError(f"--output={path} must end in .zarr or .npy")
    output = Output(path, job)
    with opener(path, shapes, rows_at_once, attributes, output) as output.writer:
        try:
            yield output
        except BaseException:
            # What went wrong is what is reported.
            with suppress(Failure):
                output.take_note()
            raise
        output.take_note()
    if output.done == next(iter(shapes.values()))[0]:
        output.end()


@contextmanager
def _npy(
    path: Path,
    shapes: Shapes,
    rows_at_once: int,
    attributes: Mapping[str, object],
    output: Output,
) -> Iterator[Writer]:
    """One layer as an NPY file; beside it names and labels as a CSV file, and the
    attributes as JSON."""
    if len(shapes) > 1:
        raise InputError(f"--output={path} takes one layer; name a .zarr for several")
    ((layer, shape),) = shapes.items()
    table_path, about_path = path.with_suffix(".csv"), path.with_suffix(".json")
    for beside in (table_path, about_path):
        if not output.resumed and beside.exists():
            raise InputError(f"{beside} exists already; choose another --output")
    output.take_note()
    if not output.done:
        with writing(about_path):
            atomic.write_json(about_path, attributes)
    first_row = _reserve(path, shape, new=not output.done)
    row_bytes = int(np.prod(shape[1:])) * np.dtype(np.float32).itemsize
    with writing(path):
        array = path.open("r+b")
        table = table_path.open("r+b" if output.done else "w+b")
    with array, table:
        with writing(path):
            # Bytes after the last row would be no part of an NPY file.
            array.truncate(first_row + shape[0] * row_bytes)
            if not output.done:
                table.write(b"name,label\n")
            _keep_lines(table, 1 + output.done)

        def write(
            start: int, columns: Columns, names: Sequence[str], labels: Sequence[int]
        ) -> None:
            # As bytes of the file and not through a memory map: a disk that is full is
            # then an OSError, where a map would end the process; and mapped pages would
            # count as its memory.
            array.seek(first_row + start * row_bytes)
            array.write(np.ascontiguousarray(columns[layer]).data)
            for name, label in zip(names, labels, strict=True):
                table.write(_row(name, label))

        def sync(start: int, stop: int) -> None:
            for file in (array, table):
                file.flush()
                atomic.sync_open(file.fileno())

        yield Writer(write, sync)


def _reserve(path: Path, shape: tuple[int, ...], *, new: bool) -> int:
    """Make or check an NPY file for all rows; returns where the first one begins.

    A new file has its whole length, but takes room on the disk only as rows are
    written, where the file system allows it.
    """
    try:
        with writing(path):
            array = np.lib.format.open_memmap(
                path, mode="w+" if new else "r", dtype=np.float32, shape=shape
            )
        if array.shape != shape or array.dtype != np.float32:
            raise ValueError(f"{array.dtype} of {array.shape}")
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is shorter than what was written, or damaged "
            f"({first_line(error)}); choose another --output"
        ) from error
    return array.offset


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


@contextmanager
def _zarr(
    path: Path,
    shapes: Shapes,
    rows_at_once: int,
    attributes: Mapping[str, object],
    output: Output,
) -> Iterator[Writer]:
    """A Zarr group with an array for each layer, and `name` and `label`."""
    zarr = optional.require("zarr", path)
    output.take_note()
    with writing(path):
        mode = "r+" if output.done else "w"
        group = zarr.open_group(path, mode=mode, zarr_format=2)
    if not output.done:
        total = next(iter(shapes.values()))[0]
        kinds = {name: (shape, np.float32) for name, shape in shapes.items()}
        # Names of any length: cut off, several would be the same.
        kinds |= {"name": ((total,), str), "label": ((total,), np.int32)}
        for name, (shape, kind) in kinds.items():
            # A chunk is a batch's rows: written whole, and only once.
            chunks = (rows_at_once, *shape[1:])
            group.create_array(name, shape=shape, chunks=chunks, dtype=kind)
        group.attrs.update(attributes)
        with writing(path):
            atomic.sync_tree(path)
            atomic.sync(path.parent)

    def write(
        start: int, columns: Columns, names: Sequence[str], labels: Sequence[int]
    ) -> None:
        text = np.asarray(names, object)
        more = {"name": text, "label": np.asarray(labels, np.int32)}
        for name, rows in {**columns, **more}.items():
            group[name][start : start + len(names)] = rows

    def sync(start: int, stop: int) -> None:
        for name, array in group.arrays():
            for chunk in range(start // rows_at_once, -(-stop // rows_at_once)):
                file = path / name / ".".join([str(chunk), *"0" * (array.ndim - 1)])
                # A chunk of zeros has none.
                if file.exists():
                    atomic.sync(file)
            atomic.sync(path / name)

    yield Writer(write, sync)
