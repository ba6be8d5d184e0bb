"""Features as an HDF5 file, for MATLAB's `h5read` and every other reader.

HDF5 keeps its description of the data in blocks of the file, and a process that is
killed while they change leaves a file that nothing opens. So the library makes the
whole file first, with room for every row; then rows are written into their place as
plain bytes, and no block of the description changes any more.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from alexnet_jax.inference.feature_file import (
    Columns,
    Contents,
    FeatureFile,
    as_bytes,
)
from alexnet_jax.runtime import atomic, optional
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError, first_line


class Hdf5File(FeatureFile):
    """An HDF5 file with a dataset for each layer, and `name` and `label`.

    Lists of text among the attributes, such as the class names, are datasets as well,
    since an attribute holds at most 64 KiB; what is nested is JSON.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        super().__init__(path, contents)
        self._h5py = optional.require("h5py", path)
        self._file: BinaryIO | None = None

    def open(self, done: int) -> None:
        """Make the whole file, or find where its rows lie."""
        if not done:
            self._make()
        self._places = self._find()
        with writing(self.path):
            self._file = self.path.open("r+b")
            if not done:
                atomic.sync_open(self._file.fileno())
                atomic.sync(self.path.parent)

    def _make(self) -> None:
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            name: (shape, "<f4") for name, shape in self.contents.shapes.items()
        }
        total, width = self.contents.total, max(1, self.contents.longest_name())
        text = self._h5py.string_dtype("utf-8", width)
        shapes |= {"name": ((total,), text), "label": ((total,), "<i4")}
        with writing(self.path), self._h5py.File(self.path, "w") as file:
            for name, (shape, kind) in shapes.items():
                # All of a dataset's room now, which no later write then asks for.
                settings = self._h5py.h5p.create(self._h5py.h5p.DATASET_CREATE)
                settings.set_alloc_time(self._h5py.h5d.ALLOC_TIME_EARLY)
                file.create_dataset(name, shape, kind, dcpl=settings, track_times=False)
            for key, value in self.contents.attributes.items():
                self._describe(file, key, value)

    def _describe(self, file: Any, key: str, value: object) -> None:
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            texts = [_utf8(text) for text in value]
            kind = self._h5py.string_dtype("utf-8", max([1, *map(len, texts)]))
            file.create_dataset(
                key, (len(texts),), kind, np.asarray(texts, kind), track_times=False
            )
        elif isinstance(value, bool | int | float):
            file.attrs[key] = value
        else:
            text = _utf8(value if isinstance(value, str) else json.dumps(value))
            kind = self._h5py.string_dtype("utf-8", max(1, len(text)))
            file.attrs.create(key, np.bytes_(text), dtype=kind)

    def _find(self) -> dict[str, tuple[int, np.dtype[Any]]]:
        """Where each dataset's rows begin in the file, and their type."""
        wanted = {**self.contents.shapes, "name": (self.contents.total,)}
        wanted["label"] = wanted["name"]
        try:
            with self._h5py.File(self.path, "r") as file:
                found = {name: file[name] for name in wanted}
                for name, shape in wanted.items():
                    if found[name].shape != shape:
                        raise ValueError(f"{name} is of {found[name].shape}")
                return {
                    name: (array.id.get_offset(), array.dtype)
                    for name, array in found.items()
                }
        except (OSError, KeyError, ValueError) as error:
            raise self.damaged(first_line(error)) from error

    def write(
        self, start: int, columns: Columns, names: Sequence[str], labels: Sequence[int]
    ) -> None:
        """Into their places, as bytes."""
        assert self._file is not None
        texts = [*map(_utf8, names)]
        width = self._places["name"][1].itemsize
        if long := [text for text in texts if len(text) > width]:
            raise InputError(
                f"{self.path} has no room for the name {long[0].decode()}, which has "
                "changed since the file was begun; choose another --output"
            )
        rows = {**columns, "name": np.asarray(texts), "label": np.asarray(labels)}
        for name, (offset, kind) in self._places.items():
            values = np.asarray(rows[name]).astype(kind)
            self._file.seek(offset + start * (values.nbytes // len(values)))
            self._file.write(as_bytes(values))

    def sync(self, start: int, stop: int) -> None:
        """The file."""
        assert self._file is not None
        self._file.flush()
        atomic.sync_open(self._file.fileno())

    def close(self) -> None:
        """The file."""
        if self._file is not None:
            self._file.close()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
