"""Files that features are written to, row by row: Zarr and NPY.

Beside an output that is not finished lies a note of how far it has come, and of the
work it belongs to.
"""

import csv
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from alexnet_jax.errors import InputError, writing


# Longer names are cut off in Zarr, where all have the same room.
NAME_BYTES = 256


class Output:
    """Rows are appended to it, of which the first `done` were written before.

    Here is what both kinds have in common: the note, and going on.
    """

    def __init__(self, path: Path, total: int, job: Mapping[str, Any]) -> None:
        self.path = path
        self._total = total
        self._job = dict(job)
        self._note = path.with_name(path.name + ".progress.json")
        self.done = 0
        if self._note.exists():
            note = json.loads(self._note.read_text(encoding="utf-8"))
            if note["job"] != self._job:
                raise InputError(
                    f"{path} holds the beginning of other features ({self._note} says "
                    "of which); give that command again, or remove both"
                )
            self.done = note["done"]
        elif path.exists():
            raise InputError(f"{path} is there already; remove it, or choose another")
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path} can't be written: its folder isn't there")
        with writing(path):
            self._advance(0)

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()
        if error is None and self.done == self._total:
            self._note.unlink(missing_ok=True)

    def append(
        self,
        values: Mapping[str, np.ndarray],
        names: Sequence[str],
        labels: Sequence[int],
    ) -> None:
        """Write the next rows, by layer, with a name and a label for each."""
        raise NotImplementedError

    def _advance(self, rows: int) -> None:
        self.done += rows
        replacement = self._note.with_name(self._note.name + ".new")
        replacement.write_text(json.dumps({"job": self._job, "done": self.done}))
        replacement.replace(self._note)

    def _close(self) -> None:
        raise NotImplementedError


class NpyOutput(Output):
    """One layer as an NPY file, names and labels as a CSV file beside it."""

    def __init__(
        self, path: Path, shape: tuple[int, ...], layer: str, job: Mapping[str, Any]
    ) -> None:
        super().__init__(path, shape[0], job)
        self._layer = layer
        table = path.with_suffix(".csv")
        with writing(path):
            mode = "r+b" if self.done else "w+b"
            self._file = path.open(mode)
            kind = np.dtype(np.float32)
            header = {"descr": kind.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)
            # What a process that was killed had written past its last note.
            row_bytes = int(np.prod(shape[1:])) * kind.itemsize
            self._file.seek(self._file.tell() + self.done * row_bytes)
            self._file.truncate()
            kept = ["name,label\n"]
            if self.done:
                lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = lines[: self.done + 1]
            self._table = table.open("w", encoding="utf-8", newline="")
            self._table.writelines(kept)

    def append(
        self,
        values: Mapping[str, np.ndarray],
        names: Sequence[str],
        labels: Sequence[int],
    ) -> None:
        """See `Output`."""
        with writing(self.path):
            self._file.write(np.ascontiguousarray(values[self._layer]).data)
            csv.writer(self._table, lineterminator="\n").writerows(
                # A line each, so that they can be counted.
                (name.replace("\n", "\\n"), label)
                for name, label in zip(names, labels, strict=True)
            )
            for file in (self._file, self._table):
                file.flush()
                os.fsync(file.fileno())
            self._advance(len(names))

    def _close(self) -> None:
        self._file.close()
        self._table.close()


class ZarrOutput(Output):
    """A Zarr group with an array for each layer, and `name` and `label`."""

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, tuple[int, ...]],
        rows_at_once: int,
        job: Mapping[str, Any],
    ) -> None:
        total = next(iter(shapes.values()))[0]
        super().__init__(path, total, job)
        try:
            zarr: Any = importlib.import_module("zarr")
        except ImportError as error:
            raise InputError(
                f"{path} needs the package zarr; `pip install zarr`, or write .npy"
            ) from error
        with writing(path):
            if self.done:
                self._group = zarr.open_group(path, mode="r+", zarr_format=2)
                return
            self._group = zarr.open_group(path, mode="w", zarr_format=2)
            kinds: dict[str, tuple[tuple[int, ...], Any]] = {
                name: (shape, np.float32) for name, shape in shapes.items()
            }
            kinds["name"] = ((total,), np.dtype(f"S{NAME_BYTES}"))
            kinds["label"] = ((total,), np.int32)
            for name, (shape, kind) in kinds.items():
                # A chunk is a batch's rows: written whole, and only once.
                chunks = (rows_at_once, *shape[1:])
                self._group.create_array(name, shape=shape, chunks=chunks, dtype=kind)

    def append(
        self,
        values: Mapping[str, np.ndarray],
        names: Sequence[str],
        labels: Sequence[int],
    ) -> None:
        """See `Output`."""
        encoded = np.asarray([name.encode() for name in names], f"S{NAME_BYTES}")
        columns = {"name": encoded, "label": np.asarray(labels, np.int32), **values}
        with writing(self.path):
            for name, rows in columns.items():
                self._group[name][self.done : self.done + len(names)] = rows
            self._advance(len(names))

    def _close(self) -> None:
        pass


def open_output(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    rows_at_once: int,
    job: Mapping[str, Any],
) -> Output:
    """Open an output, or go on with one.

    Args:
      path: its ending says which kind.
      shapes: of each layer's array, rows first.
      rows_at_once: how many rows every `append` but the last brings.
      job: what tells this work from any other.

    Raises:
      InputError: if it is there already, belongs to other work, or can't be written.
    """
    if path.suffix == ".zarr":
        return ZarrOutput(path, shapes, rows_at_once, job)
    if path.suffix != ".npy":
        raise InputError(f"--output={path} must end in .zarr or .npy")
    if len(shapes) > 1:
        raise InputError(f"--output={path} takes one layer; name a .zarr for several")
    (layer, shape), *_ = shapes.items()
    return NpyOutput(path, shape, layer, job)
