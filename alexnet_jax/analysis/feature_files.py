"""Reading the files that `features` writes: Zarr, HDF5, NPY."""

import csv
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from alexnet_jax.runtime import optional, progress
from alexnet_jax.runtime.errors import InputError, first_line


# Arrays of a file that are no layer's.
NAME, LABEL = "name", "label"
NO_LABEL = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer's values in a file, a row for each image; see `similarity.Rows`.

    Attributes:
      shape: how many rows, and how many values in each.
      slice_of: reads rows, of any number of axes.
    """

    shape: tuple[int, int]
    slice_of: Callable[[int, int], np.ndarray]

    def read(self, start: int, stop: int) -> Float[np.ndarray, "rows width"]:
        """Rows from one on, up to another, each flat."""
        return np.asarray(self.slice_of(start, stop)).reshape(-1, self.shape[1])


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """An open file of features.

    Attributes:
      layers: by name, from the first to the last.
      names: of the images; their numbers where the file has none.
      labels: of the images; `NO_LABEL` where the file has none.
      named: whether the file has names.
    """

    path: Path
    layers: Mapping[str, Layer]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    named: bool


@contextmanager
def open_features(path: Path) -> Iterator[Features]:
    """Open a file of features.

    A .npy file may be from elsewhere: floating point, with a row for each image.

    Raises:
      InputError: if it is missing, unfinished or damaged, or of another format.
    """
    opener = {".npy": _npy, ".zarr": _zarr, ".h5": _hdf5, ".hdf5": _hdf5}
    if path.suffix not in opener:
        raise InputError(f"{path} must end in .zarr, .h5 or .npy, as features do")
    if not path.exists():
        raise InputError(f"{path} does not exist")
    note = path.with_name(f"{path.name}.progress.json")
    if note.exists():
        raise InputError(
            f"{path} is unfinished ({note} says which features); give its `features` "
            "command again"
        )
    try:
        features = opener[path.suffix](path)
        opened = next(features)
    except InputError:
        raise
    except Exception as error:
        # NumPy, h5py and Zarr raise many kinds.
        raise InputError(f"{path} can't be read ({first_line(error)})") from error
    try:
        if not opened.layers:
            raise InputError(f"{path} has no layer in it")
        yield opened
    finally:
        features.close()


def _npy(path: Path) -> Generator[Features]:
    # For its header alone: mapped pages would count as memory.
    header = np.lib.format.open_memmap(path, mode="r")
    shape, kind, first = header.shape, header.dtype, header.offset
    if kind.kind != "f" or len(shape) < 2 or not header.flags.c_contiguous:
        raise InputError(
            f"{path} must hold floating point with a row for each image, in C's order; "
            f"it is {kind} of {shape}"
        )
    del header
    width = int(np.prod(shape[1:]))
    found = _table(path.with_suffix(".csv"), shape[0])
    named = found is not None
    names, labels = _numbered(shape[0]) if found is None else found
    with path.open("rb") as file:

        def rows(start: int, stop: int) -> np.ndarray:
            file.seek(first + start * width * kind.itemsize)
            return np.fromfile(file, kind, (stop - start) * width)

        layers = {path.stem: Layer((shape[0], width), rows)}
        yield Features(path, layers, names, labels, named)


def _table(path: Path, count: int) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """Names and labels from the table beside an NPY file; None where there is none, or
    one of something else, as of a recording's electrodes."""
    if not path.exists():
        return None
    try:
        # The header decides, and another table may be in another encoding.
        with path.open(
            encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as file:
            lines = csv.DictReader(file)
            if not {"name", "label"} <= set(lines.fieldnames or ()):
                return None
            rows = [(row["name"], int(row["label"])) for row in lines]
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(
            f"{path}, which names the images, can't be read ({first_line(error)})"
        ) from error
    if len(rows) != count:
        raise InputError(f"{path} names {len(rows)} images, and its array has {count}")
    names, labels = zip(*rows, strict=True)
    return names, labels


def _numbered(count: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return tuple(map(str, range(count))), (NO_LABEL,) * count


def _zarr(path: Path) -> Generator[Features]:
    zarr = optional.require("zarr", path)
    group = zarr.open_group(path, mode="r")
    yield _of_arrays(path, dict(group.arrays()), lambda names: map(str, names))


def _hdf5(path: Path) -> Generator[Features]:
    h5py = optional.require("h5py", path)
    with h5py.File(path, "r") as file:
        arrays = {n: array for n, array in file.items() if hasattr(array, "shape")}
        texts = lambda names: (name.decode("utf-8", "replace") for name in names)
        yield _of_arrays(path, arrays, texts)


def _of_arrays(
    path: Path,
    arrays: Mapping[str, Any],
    texts: Callable[[Any], Iterator[str]],
) -> Features:
    """Features from the arrays of a group."""
    kept = {
        name: array
        for name, array in arrays.items()
        if np.dtype(array.dtype).kind == "f" and len(array.shape) > 1
    }
    counts = {array.shape[0] for array in kept.values()}
    if len(counts) > 1:
        raise InputError(f"{path} has layers of different numbers of images")
    (count,) = counts or {0}
    names, labels = _numbered(count)
    if NAME in arrays:
        names = tuple(texts(arrays[NAME][:]))
    if LABEL in arrays:
        labels = tuple(int(label) for label in arrays[LABEL][:])
    layers = {
        name: Layer(
            (count, int(np.prod(array.shape[1:]))),
            lambda start, stop, array=array: array[start:stop],
        )
        for name, array in sorted(kept.items(), key=lambda item: _depth(item[0]))
    }
    return Features(path, layers, names, labels, NAME in arrays)


def images_of(opened: Sequence[Features]) -> Features:
    """The file that names the images, of one file or two of the same images. A file
    without names, as of recordings, has those of the other, in its order.

    Raises:
      InputError: unless both have the same images in the same order.
    """
    if len(opened) == 1:
        return opened[0]
    if all(features.named for features in opened):
        _check_alike(*opened)
        return opened[0]
    known, other = sorted(opened, key=lambda features: not features.named)
    if len(known.names) != len(other.names):
        raise InputError(
            f"{known.path} has {len(known.names)} images, and {other.path} "
            f"{len(other.names)} rows; compare features of the same images"
        )
    if known.named:
        progress.say(
            f"{other.path} names no image; its rows are taken for those of "
            f"{known.path}, in that order"
        )
    return known


def _check_alike(first: Features, second: Features) -> None:
    pairs = enumerate(itertools.zip_longest(first.names, second.names))
    other = next(((n, pair) for n, pair in pairs if pair[0] != pair[1]), None)
    if other is None:
        return
    number, (here, there) = other
    shown = [json.dumps(name) if name is not None else "none" for name in (here, there)]
    raise InputError(
        f"{first.path} and {second.path} hold different images: image {number} is "
        f"{shown[0]} in one and {shown[1]} in the other; compare features of the same "
        "images"
    )


def chosen_layers(
    files: Sequence[Features], wanted: Sequence[str] | None
) -> list[dict[str, Layer]]:
    """The layers of each file, or those of them that are named; all of a file that has
    none of those.

    Raises:
      InputError: if no file has one of them.
    """
    known = {name for features in files for name in features.layers}
    if unknown := [name for name in wanted or () if name not in known]:
        have = "; ".join(f"{f.path} has {', '.join(f.layers)}" for f in files)
        raise InputError(f"there is no layer {', '.join(unknown)}: {have}")
    every = [dict(features.layers) for features in files]
    return [
        {name: layers[name] for name in wanted or () if name in layers} or layers
        for layers in every
    ]


def _depth(name: str) -> tuple[float, bool, str]:
    """Sorts the names of `AlexNet.features` by their place in the network."""
    number = re.search("[0-9]+", name)
    # conv1.linear before conv1 before norm1 before pool1; names from elsewhere last.
    return (
        float(number[0]) if number else np.inf,
        not name.endswith(".linear"),
        name,
    )
