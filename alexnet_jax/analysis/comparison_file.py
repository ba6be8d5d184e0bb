"""What `compare` finds, and the files that it is written to: NPY and HDF5."""

import contextlib
import csv
import dataclasses
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alexnet_jax.analysis.similarity import Tile
from alexnet_jax.runtime import atomic, optional, paths
from alexnet_jax.runtime.atomic import writing


# Takes tiles of the matrix of a layer, by its number.
TileWriter = Callable[[int, Tile], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found.

    Attributes:
      distance: out of `similarity.DISTANCES`.
      layers: the names of the matrices, in their order.
      rows, columns: the layers that `cka` compares.
      cka: debiased linear CKA.
      names, labels: of the images compared.
      left_out: names of images with values that are not finite.
      sample: some images, sorted by label, and `drawn` their dissimilarities by layer.
    """

    distance: str
    layers: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cka: Float[np.ndarray, "rows columns"]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    left_out: tuple[str, ...]
    sample: np.ndarray
    drawn: Float[np.ndarray, "layers sample sample"]

    def about(self) -> dict[str, object]:
        """All but the matrices of images, as JSON."""
        return {
            "distance": self.distance,
            "layers": self.layers,
            "cka_rows": self.rows,
            "cka_columns": self.columns,
            "cka": [[_number(value) for value in row] for row in self.cka],
            "left_out": self.left_out,
        }


def _number(value: float) -> float | None:
    """A number of JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None


class File(NamedTuple):
    """A file that is being written.

    Attributes:
      write: takes tiles of the matrix of a layer, by its number.
      describe: takes the rest.
    """

    write: TileWriter
    describe: Callable[[Comparison], None]


def check_output(output: Path) -> None:
    """Raise an InputError for an output that can't be written."""
    paths.check_output(output, (".npy", ".h5"))
    for path in _beside(output):
        paths.check_output(path, [path.suffix])


def _beside(output: Path) -> tuple[Path, ...]:
    """The files beside an NPY file, with what it can't hold."""
    if output.suffix == ".h5":
        return ()
    return output.with_suffix(".json"), output.with_suffix(".csv")


@contextmanager
def open_output(path: Path, layers: tuple[str, ...], count: int) -> Iterator[File]:
    """A file for matrices of so many images, which gets its name when it is whole."""
    part = path.with_name(path.name + atomic.PART)
    with contextlib.ExitStack() as stack:
        stack.enter_context(writing(path))
        # None of them was there before.
        for made in (path, part, *_beside(path)):
            stack.enter_context(atomic.removed_on_error(made))
        described: list[Comparison] = []
        if path.suffix == ".npy":
            opened = _npy(part, layers, count, described)
        else:
            opened = _hdf5(path, part, layers, count)
        with opened as file:
            yield file
        atomic.sync(part)
        # What is beside the matrices comes when these are on the disk.
        for found in described:
            _write_beside(path, found)
        part.replace(path)
        atomic.sync(path.parent)


@contextmanager
def _npy(
    part: Path, layers: tuple[str, ...], count: int, described: list[Comparison]
) -> Iterator[File]:
    """One array of layers x images x images, float32; the rest is collected."""
    header = io.BytesIO()
    shape = (len(layers), count, count)
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    first = header.tell()
    with part.open("wb") as file:
        file.write(header.getvalue())
        file.truncate(first + 4 * len(layers) * count**2)

        def write_lines(number: int, top: int, left: int, values: np.ndarray) -> None:
            for row, line in enumerate(values, start=top):
                place = (number * count + row) * count + left
                file.seek(first + 4 * place)
                file.write(np.ascontiguousarray(line, "<f4").data)

        def write(number: int, tile: Tile) -> None:
            top, left = tile.rows.start, tile.columns.start
            write_lines(number, top, left, tile.values)
            if tile.rows != tile.columns:
                write_lines(number, left, top, tile.values.T)

        yield File(write, described.append)


def _write_beside(path: Path, found: Comparison) -> None:
    about_path, table_path = _beside(path)
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(["name", "label"])
    lines.writerows(zip(found.names, found.labels, strict=True))
    atomic.replace(table_path, table.getvalue())
    atomic.write_json(about_path, found.about())


@contextmanager
def _hdf5(
    path: Path, part: Path, layers: tuple[str, ...], count: int
) -> Iterator[File]:
    """A dataset for each layer in the group `rdm`, and the rest beside it."""
    h5py = optional.require("h5py", path)
    with h5py.File(part, "w") as file:
        group = file.create_group("rdm")
        sets = [group.create_dataset(n, (count, count), "f4") for n in layers]

        def write(number: int, tile: Tile) -> None:
            sets[number][tile.rows, tile.columns] = tile.values
            if tile.rows != tile.columns:
                sets[number][tile.columns, tile.rows] = tile.values.T

        def describe(found: Comparison) -> None:
            texts = {
                "name": found.names,
                "left_out": found.left_out,
                "cka_rows": found.rows,
                "cka_columns": found.columns,
            }
            for key, values in texts.items():
                coded = [text.encode("utf-8", "backslashreplace") for text in values]
                kind = h5py.string_dtype()
                file.create_dataset(key, data=np.asarray(coded, object), dtype=kind)
            file["label"] = np.asarray(found.labels, np.int32)
            file["cka"] = found.cka
            file.attrs["distance"] = found.distance

        yield File(write, describe)
