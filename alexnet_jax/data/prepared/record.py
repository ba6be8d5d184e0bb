"""The prepared data set: a folder with `dataset.json`, `mean.npy` and shards.

A shard is an ArrayRecord file. A record is the length of a header in two bytes, little
end first, the header (MessagePack of the example's label and name), and the picture:
JPEG or raw pixels, last and so readable without a copy. `prepare` writes them.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgpack
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader

from alexnet_jax.data import images
from alexnet_jax.data.dataset import Dataset, Example, fingerprint
from alexnet_jax.data.prepared import manifest
from alexnet_jax.data.prepared.manifest import AGAIN, Shard
from alexnet_jax.runtime.errors import InputError, first_line


_LENGTH = struct.Struct("<H")


class Record(NamedTuple):
    """One example of a prepared data set, its picture still encoded."""

    label: int
    name: str
    picture: memoryview


def pack(picture: bytes, label: int, name: str) -> bytes:
    """The record of one example."""
    header = msgpack.Packer().pack({"label": label, "name": name})
    return _LENGTH.pack(len(header)) + header + picture


def unpack(record: bytes) -> Record:
    """What `pack` was given.

    Raises:
      ValueError: if the bytes are no record.
    """
    view = memoryview(record)
    try:
        (length,) = _LENGTH.unpack_from(view)
        end = _LENGTH.size + length
        header = msgpack.unpackb(view[_LENGTH.size : end])
        return Record(int(header["label"]), str(header["name"]), view[end:])
    except Exception as error:
        # Any bytes may stand here, and msgpack raises what it likes.
        raise ValueError(f"no record of a prepared set ({error})") from error


def encode(picture: np.ndarray, encoding: str) -> bytes:
    """A stored picture as it stands in a record."""
    return images.encode_jpeg(picture) if encoding == "jpeg" else picture.tobytes()


def decode(picture: memoryview, encoding: str, size: int) -> np.ndarray:
    """The pixels of a record's picture; of raw ones a view.

    Raises:
      ValueError: if it is another picture than one of that size.
    """
    if encoding == "raw":
        return np.frombuffer(picture, np.uint8).reshape(size, size, 3)
    pixels = images.decode_jpeg(picture)
    if pixels.shape != (size, size, 3):
        raise ValueError(f"a picture of {pixels.shape} where {size} x {size} is stored")
    return pixels


class PreparedSource:
    """The records of one split of a prepared data set."""

    def __init__(self, shards: list[Shard], size: int, encoding: str) -> None:
        self._shards = shards
        self._starts = np.cumsum([0] + [shard.examples for shard in shards])
        paths = [str(shard.path) for shard in shards]
        try:
            self._records: Any = ArrayRecordDataSource(paths)
        except Exception:
            self._records = []
        if len(self._records) != len(self):
            _find_fault(shards)
        self._size = size
        self._encoding = encoding

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Example:
        try:
            record = unpack(self._records[index])
            image = decode(record.picture, self._encoding, self._size)
        except Exception as error:
            # ArrayRecord and the decoder raise many kinds on damaged bytes.
            raise self._damaged(index, error) from error
        return {"image": image, "label": record.label}

    def name(self, index: int) -> str:
        """The example's name."""
        try:
            return unpack(self._records[index]).name
        except Exception as error:
            raise self._damaged(index, error) from error

    def where(self, index: int) -> str:
        """The shard, and the record in it."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return f"{self._shards[number].path}, record {index - self._starts[number]}"

    def _damaged(self, index: int, error: Exception) -> InputError:
        folder = self._shards[0].path.parent
        return InputError(
            f"{self.where(index)}, is damaged "
            f"({first_line(error)}); `python -m alexnet_jax.verify --path={folder}` "
            f"finds all such, then {AGAIN}"
        )


def _find_fault(shards: list[Shard]) -> NoReturn:
    """Raise an InputError that names the shard that has not what it should."""
    for shard in shards:
        try:
            count = ArrayRecordReader(str(shard.path)).num_records()
        except Exception as error:
            # ArrayRecord raises many kinds on damaged bytes.
            raise InputError(
                f"{shard.path} can't be opened ({first_line(error)}); {AGAIN}"
            ) from error
        if count != shard.examples:
            raise InputError(
                f"{shard.path} has {count} records where {shard.examples} are named; "
                f"{AGAIN}"
            )
    raise InputError(f"{shards[0].path.parent} changed while it was opened")


def open_prepared(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """Open what `prepare` wrote."""
    del size, validation_fraction  # Both were decided when it was prepared.
    if path is None:
        raise InputError(
            "data.path is not set; prepare a data set with `python -m "
            "alexnet_jax.prepare --source=folder --input=PICTURES --output=DIR` and "
            "train with --config.data.path=DIR"
        )
    description = manifest.read_description(Path(path))
    statistics = manifest.load_statistics(description)
    for shard in manifest.all_shards(description):
        manifest.check_shard(shard)
    for split in ("train", "validation"):
        if not sum(shard.examples for shard in description.shards.get(split, ())):
            raise InputError(f"{path} has no examples of split {split}; {AGAIN}")
    return Dataset(
        splits={
            split: PreparedSource(shards, description.size, description.encoding)
            for split, shards in description.shards.items()
        },
        class_names=description.class_names,
        class_ids=description.class_ids,
        size=description.size,
        fingerprint=fingerprint(
            shard.sha256 for shard in manifest.all_shards(description)
        ),
        statistics=statistics,
    )
