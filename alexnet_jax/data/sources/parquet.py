"""A classification set in Parquet files, as the Hugging Face Hub stores them.

The files' metadata say which column holds images, and name the classes. Rows come in
groups; read in order, each is read once. Random access reads most of a group for every
image, so training from Parquet is slow: prepare it.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.image_tree import printable
from alexnet_jax.data.sources import parquet_columns, rows, shards
from alexnet_jax.data.sources.parquet_columns import Columns
from alexnet_jax.data.sources.parquet_reader import Reader, field, open_file
from alexnet_jax.data.sources.rows import Rows, RowSource, ShardFile, numbered_classes
from alexnet_jax.runtime.errors import InputError, first_line
from alexnet_jax.runtime.optional import require


@dataclasses.dataclass(frozen=True, eq=False)
class ParquetSource(RowSource):
    """The encoded images of one split; `place` is the row group and the row in it.

    Attributes:
      column: of the images' bytes.
    """

    recommends_preparing = True
    column: str
    reader: Reader = dataclasses.field(default_factory=Reader, repr=False)

    def _read(self, path: Path, index: int, where: str) -> bytes | None:
        group, row = map(int, self.rows.place[index])
        try:
            return self.reader.read(path, self.column, group, row)
        except Exception as error:
            # Arrow raises many kinds on damaged bytes.
            raise InputError(f"{where} can't be read ({first_line(error)})") from error


def open_parquet(
    path: str | None,
    size: int,
    validation_fraction: float,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    other_classes: str = "stop",
) -> Dataset:
    """Parquet files in a folder, at any depth, or one file.

    The second split is that of `validation`, or of `test` where it has classes; without
    it a fraction of each class is held out.

    Raises:
      InputError: if a file can't be read, or has no column of images or of classes.
    """
    if path is None:
        raise InputError("data.path is not set; give the folder of the Parquet files")
    require("pyarrow", "Parquet")
    found = shards.find_shards(path, ".parquet")
    first = found.root / found.splits["train"][0].path
    columns = parquet_columns.find_columns(
        open_file(first).schema_arrow, printable(first), image_key, label_key
    )
    tables = {
        split: _Table.of([_read_table(found.root, file, columns) for file in files])
        for split, files in found.splits.items()
    }
    second = shards.validation_split(list(tables))
    if second == "test" and not tables["test"].has_labels():
        # As in competitions, whose test images have no class that is known.
        second = None
    used, notes = shards.use_of(printable(path), second)
    classes = columns.classes or _classes(
        [tables[split] for split in used.values()], printable(path)
    )
    return rows.row_dataset(
        printable(path),
        {
            name: ParquetSource(
                root=found.root,
                files=found.splits[split],
                rows=tables[split].rows(classes, found.root, found.splits[split]),
                split=split,
                size=size,
                column=columns.image,
            )
            for name, split in used.items()
        },
        classes,
        validation_fraction=validation_fraction,
        other_classes=other_classes,
        left_out=found.left_out_of(used.values()),
        notes=[*found.notes, *notes],
    )


class _Table(NamedTuple):
    """What is read of files beside the images: for each row its class, as a number or
    as text, and its name; its row group and the row in it; and the rows of each file.
    """

    labels: Sequence[int | str | None]
    names: list[str | None]
    places: Int64[np.ndarray, "images 2"]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, parts: Sequence["_Table"]) -> "_Table":
        """The tables of several files as one."""
        return cls(
            list(itertools.chain.from_iterable(part.labels for part in parts)),
            list(itertools.chain.from_iterable(part.names for part in parts)),
            np.concatenate([part.places for part in parts]),
            tuple(itertools.chain.from_iterable(part.counts for part in parts)),
        )

    def has_labels(self) -> bool:
        """Whether any row has a class; the Hub writes -1 for none."""
        return any(label not in (None, -1) for label in self.labels)

    def rows(
        self, classes: Sequence[str], root: Path, files: Sequence[ShardFile]
    ) -> Rows:
        """The rows with labels that number `classes`.

        Raises:
          InputError: if a row has another class, or none.
        """
        file = np.repeat(np.arange(len(files), dtype=np.int32), self.counts)
        number = np.concatenate([np.arange(n) for n in self.counts])
        numbered = {name: n for n, name in enumerate(classes)}
        labels = [
            numbered.get(x, -1) if isinstance(x, str) else -1 if x is None else x
            for x in self.labels
        ]
        ends = np.cumsum(self.counts)
        parts = np.split(np.asarray(labels, np.int64), ends[:-1])
        checked = [
            rows.check_labels(part, len(classes), printable(root / file.path))
            for part, file in zip(parts, files, strict=True)
        ]
        return Rows(
            file,
            number.astype(np.int64),
            np.concatenate(checked),
            self.places,
            np.array([name or "" for name in self.names], object),
        )


def _read_table(root: Path, file: ShardFile, columns: Columns) -> _Table:
    """Everything but the images of a file.

    Raises:
      InputError: if it can't be read, or has other columns than the first file.
    """
    path = root / file.path
    opened = open_file(path)
    schema, image = opened.schema_arrow, columns.image.partition(".")[0]
    if lacking := [n for n in (image, columns.label) if n not in schema.names]:
        raise InputError(
            f"{printable(path)} has no column {lacking[0]}, as the first file has; put "
            "other sets into other folders"
        )
    wanted = [name for name in (columns.label, columns.name) if name is not None]
    try:
        table = opened.read(wanted, use_threads=False)
        labels = field(table, columns.label).to_pylist()
        names: list[str | None] = [None] * len(labels)
        if columns.name is not None:
            names = field(table, columns.name).to_pylist()
    except Exception as error:
        # Arrow raises many kinds on damaged bytes.
        raise InputError(
            f"{printable(path)} can't be read ({first_line(error)}); fetch it again"
        ) from error
    meta = opened.metadata
    groups = [meta.row_group(n).num_rows for n in range(meta.num_row_groups)]
    places = [
        np.stack([np.full(count, n), np.arange(count)], axis=1)
        for n, count in enumerate(groups)
    ]
    empty = [np.zeros((0, 2), np.int64)]
    places = np.concatenate(empty + places).astype(np.int64)
    if names and columns.name is not None and _is_address(names[0]):
        _check_bytes(path, columns, str(names[0]))
    return _Table(labels, names, places, (len(labels),))


def _is_address(name: str | None) -> bool:
    return name is not None and name.startswith(("http://", "https://"))


def _check_bytes(path: Path, columns: Columns, name: str) -> None:
    """Raise an InputError where the first row has an address instead of an image."""
    if Reader().read(path, columns.image, 0, 0) is None:
        raise InputError(
            f"{printable(path)} has addresses of images ({name}) and no images; "
            "download them into class folders and choose the source folder"
        )


def _classes(tables: Sequence[_Table], where: str) -> tuple[str, ...]:
    """The names of classes that the files don't name: the texts, or the numbers.

    Raises:
      InputError: if a number is too large for one.
    """
    labels = {label for table in tables for label in table.labels if label is not None}
    texts = sorted(label for label in labels if isinstance(label, str))
    if texts:
        return tuple(texts)
    most = max((label for label in labels if isinstance(label, int)), default=-1)
    return numbered_classes(most, where)
