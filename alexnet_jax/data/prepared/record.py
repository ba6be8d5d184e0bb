"""The prepared format: a folder with `dataset.json`, `mean.npy` and shards.

A shard is an ArrayRecord file. A record is the length of a header in two bytes, little
end first; the header, MessagePack of the example's label and name; and the image, JPEG
or raw pixels. The image comes last, so that raw pixels are read without a copy.
"""

import copy
import struct
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgpack
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import UInt8

from alexnet_jax.data import decoding
from alexnet_jax.data.dataset import Dataset, Example, fingerprint
from alexnet_jax.data.prepared import manifest
from alexnet_jax.data.prepared.manifest import AGAIN, Shard
from alexnet_jax.runtime import patience
from alexnet_jax.runtime.errors import Failure, InputError, first_line


_LENGTH = struct.Struct("<H")


class Record(NamedTuple):
    """One example of a prepared data set, its image still encoded."""

    label: int
    name: str
    image: memoryview


def pack(image: bytes, label: int, name: str) -> bytes:
    """The record of one example, from its encoded image."""
    header = msgpack.Packer().pack({"label": label, "name": name})
    return _LENGTH.pack(len(header)) + header + image


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
        # The bytes may be anything, and msgpack raises many kinds on them.
        raise ValueError(f"no record of a prepared set ({error})") from error


def encode(image: UInt8[np.ndarray, "size size 3"], encoding: str) -> bytes:
    """An image as it is stored in a record."""
    return decoding.encode_jpeg(image) if encoding == "jpeg" else image.tobytes()


def decode(
    image: memoryview, encoding: str, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The pixels of a record's image; for raw pixels a view, not a copy.

    Raises:
      ValueError: if the image is damaged or is not of that size.
    """
    if encoding == "raw":
        return np.frombuffer(image, np.uint8).reshape(size, size, 3)
    pixels = decoding.decode_jpeg(image)
    if pixels.shape != (size, size, 3):
        raise ValueError(f"an image of {pixels.shape} where {size} x {size} is stored")
    return pixels


class PreparedSource:
    """The records of one split of a prepared data set.

    Attributes:
      encoding: how its images are stored, `jpeg` or `raw`.
    """

    def __init__(self, shards: list[Shard], size: int, encoding: str) -> None:
        self._shards = shards
        self._starts = np.cumsum([0] + [shard.examples for shard in shards])
        paths = [str(shard.path) for shard in shards]
        try:
            self._records = ArrayRecordDataSource(paths)
        except Exception:
            # ArrayRecord raises many kinds, which name no file.
            _find_fault(shards)
        if len(self._records) != len(self):
            _find_fault(shards)
        self._size = size
        self.encoding = encoding

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Example:
        record = self._record(index)
        try:
            image = decode(record.image, self.encoding, self._size)
        except Exception as error:
            # The decoder raises many kinds as well.
            raise self._damaged(index, error) from error
        return {"image": image, "label": record.label}

    def label(self, index: int) -> int:
        """The example's class."""
        return self._record(index).label

    def name(self, index: int) -> str:
        """The example's name."""
        return self._record(index).name

    def _record(self, index: int) -> Record:
        folder = self._shards[0].path.parent

        def read() -> Record:
            try:
                return unpack(self._records[index])
            except Exception:
                # Files that are open stay lost when a drive is back; a copy opens its
                # own.
                self._records = copy.copy(self._records)
                raise

        try:
            return patience.read(folder, self.where(index), read)
        except Failure:
            raise
        except Exception as error:
            # ArrayRecord raises many kinds on damaged bytes.
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
            f"lists every damaged record, then {AGAIN}"
        )


def _find_fault(shards: list[Shard]) -> NoReturn:
    """Raise an InputError that names the shard that does not match the manifest."""
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
                f"{shard.path} has {count} records where the manifest says "
                f"{shard.examples}; {AGAIN}"
            )
    raise InputError(f"{shards[0].path.parent} changed while it was opened")


def open_prepared(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """Open what `prepare` wrote. Size and fraction are ignored: preparing decided both.

    Raises:
      InputError: if the folder is missing, damaged, or lacks a split.
    """
    del size, validation_fraction
    if path is None:
        raise InputError(
            "data.path is not set; prepare a data set with `python -m "
            "alexnet_jax.prepare --source=folder --input=IMAGES --output=DIR` and "
            "train with --config.data.path=DIR"
        )
    opened = manifest.read_manifest(Path(path))
    statistics = manifest.load_statistics(opened)
    for shard in manifest.all_shards(opened):
        manifest.check_shard(shard)
    for split in ("train", "validation"):
        if not sum(shard.examples for shard in opened.shards.get(split, ())):
            raise InputError(f"{path} has no examples of split {split}; {AGAIN}")
    return Dataset(
        splits={
            split: PreparedSource(shards, opened.size, opened.encoding)
            for split, shards in opened.shards.items()
        },
        class_names=opened.class_names,
        class_ids=opened.class_ids,
        size=opened.size,
        fingerprint=fingerprint(shard.sha256 for shard in manifest.all_shards(opened)),
        statistics=statistics,
    )
