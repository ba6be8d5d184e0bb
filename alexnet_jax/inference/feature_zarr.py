"""Features as a Zarr group."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.inference.feature_file import Columns, Contents, FeatureFile
from alexnet_jax.runtime import atomic, optional
from alexnet_jax.runtime.atomic import writing


class ZarrGroup(FeatureFile):
    """A Zarr group with an array for each layer, and `name` and `label`."""

    def __init__(self, path: Path, contents: Contents) -> None:
        super().__init__(path, contents)
        self._zarr = optional.require("zarr", path)

    def open(self, done: int) -> None:
        """Make the group and its arrays, or open them."""
        with writing(self.path):
            self._group = self._zarr.open_group(
                self.path, mode="r+" if done else "w", zarr_format=2
            )
        if done:
            return
        kinds = {name: (s, np.float32) for name, s in self.contents.shapes.items()}
        # Names of any length: cut off, several would be the same.
        total = self.contents.total
        kinds |= {"name": ((total,), str), "label": ((total,), np.int32)}
        for name, (shape, kind) in kinds.items():
            # A chunk is a batch's rows: written whole, and only once.
            chunks = (self.contents.rows_at_once, *shape[1:])
            self._group.create_array(name, shape=shape, chunks=chunks, dtype=kind)
        self._group.attrs.update(self.contents.attributes)
        with writing(self.path):
            atomic.sync_tree(self.path)
            atomic.sync(self.path.parent)

    def write(
        self, start: int, columns: Columns, names: Sequence[str], labels: Sequence[int]
    ) -> None:
        """Whole chunks, but for the last."""
        text = np.asarray(names, object)
        more = {"name": text, "label": np.asarray(labels, np.int32)}
        for name, rows in {**columns, **more}.items():
            self._group[name][start : start + len(names)] = rows

    def sync(self, start: int, stop: int) -> None:
        """The chunks of these rows."""
        size = self.contents.rows_at_once
        for name, array in self._group.arrays():
            for chunk in range(start // size, -(-stop // size)):
                end = ".".join([str(chunk), *"0" * (array.ndim - 1)])
                file = self.path / name / end
                # A chunk of zeros has none.
                if file.exists():
                    atomic.sync(file)
            atomic.sync(self.path / name)

    def close(self) -> None:
        """Nothing: each chunk is a file of its own."""
