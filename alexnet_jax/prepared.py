"""The prepared data set: a folder with `dataset.json`, `mean.npy` and shards.

A shard is an ArrayRecord file. A record is the length of a header in two bytes, little
end first, the header (MessagePack of the example's label and name), and the picture:
JPEG or raw pixels, last and so readable without a copy. `prepare` writes them.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple, NoReturn

import msgpack
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader

from alexnet_jax import moments, pictures
from alexnet_jax.dataset import Dataset, Example, fingerprint
from alexnet_jax.errors import InputError, first_line


FORMAT_VERSION = 2
DATASET_FILE = "dataset.json"
ENCODINGS = ("jpeg", "raw")
_LENGTH = struct.Struct("<H")
_AGAIN = "prepare the data set again"


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
    return pictures.encode_jpeg(picture) if encoding == "jpeg" else picture.tobytes()


def decode(picture: memoryview, encoding: str, size: int) -> np.ndarray:
    """The pixels of a record's picture; of raw ones a view.

    Raises:
      ValueError: if it is another picture than one of that size.
    """
    if encoding == "raw":
        return np.frombuffer(picture, np.uint8).reshape(size, size, 3)
    pixels = pictures.decode_jpeg(picture)
    if pixels.shape != (size, size, 3):
        raise ValueError(f"a picture of {pixels.shape} where {size} x {size} is stored")
    return pixels


class PreparedSource:
    """The records of one split of a prepared data set."""

    def __init__(self, shards: list["Shard"], size: int, encoding: str) -> None:
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

    def _damaged(self, index: int, error: Exception) -> InputError:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard = self._shards[number]
        folder = shard.path.parent
        return InputError(
            f"{shard.path}, record {index - self._starts[number]}, is damaged "
            f"({first_line(error)}); `python -m alexnet_jax.verify --path={folder}` "
            f"finds all such, then {_AGAIN}"
        )


class Shard(NamedTuple):
    """A shard as `dataset.json` describes it."""

    path: Path
    examples: int
    bytes: int
    sha256: str


class Description(NamedTuple):
    """What `dataset.json` says, checked."""

    folder: Path
    size: int
    encoding: str
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]
    shards: dict[str, list[Shard]]
    mean_sha256: str
    statistics: dict[str, Any]


def read_description(folder: Path) -> Description:
    """Read and check `dataset.json`.

    Raises:
      InputError: if it is missing, damaged or of another format, or says what can't be.
    """
    path = folder / DATASET_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} holds no prepared data set ({DATASET_FILE} is missing); make it "
            f"with `python -m alexnet_jax.prepare --source=folder --input=PICTURES "
            f"--output={folder}`"
        )
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); {_AGAIN}") from error
    if not isinstance(described, dict) or "shards" not in described:
        raise InputError(f"{folder} holds no prepared data set; it is something else")
    version = described.get("format_version")
    if not isinstance(version, int):
        raise InputError(f"{path} is damaged (no format_version); {_AGAIN}")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{folder} was prepared in format {version}, newer than the "
            f"{FORMAT_VERSION} read here; upgrade alexnet_jax"
        )
    if version < FORMAT_VERSION:
        raise InputError(
            f"{folder} was prepared in format {version}, before {FORMAT_VERSION}; "
            f"{_AGAIN}"
        )
    try:
        return _checked(folder, described)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        kind = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is damaged ({kind}); {_AGAIN}") from error


def _checked(folder: Path, described: dict[str, Any]) -> Description:
    size, encoding = described["size"], described["encoding"]
    if not (isinstance(size, int) and 0 < size <= 4096):
        raise ValueError(f"size {size!r}")
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding {encoding!r}")
    shards = {}
    for split, members in described["shards"].items():
        shards[split] = []
        for member in members:
            file = member["file"]
            if PurePath(file).name != file:
                raise ValueError(f"shard {file!r} lies outside of the folder")
            shard = Shard(
                folder / file,
                _count(member["examples"]),
                _count(member["bytes"]),
                str(member["sha256"]),
            )
            shards[split].append(shard)
    names = tuple(str(name) for name in described["class_names"])
    ids = tuple(str(name) for name in described["class_ids"])
    if not names or len(names) != len(ids):
        raise ValueError(f"{len(names)} class names and {len(ids)} ids")
    for key, shape in (("colour_deviations", (3,)), ("colour_directions", (3, 3))):
        numbers = np.asarray(described[key], np.float64)
        if numbers.shape != shape or not np.isfinite(numbers).all():
            raise ValueError(key)
    return Description(
        folder=folder,
        size=size,
        encoding=encoding,
        class_names=names,
        class_ids=ids,
        shards=shards,
        mean_sha256=str(described["mean_sha256"]),
        statistics=described,
    )


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"a count of {value!r}")
    return value


def load_statistics(description: Description) -> moments.Statistics:
    """The mean picture and the colours of a prepared data set.

    Raises:
      InputError: if the mean picture is missing or damaged.
    """
    path = description.folder / moments.MEAN_FILE
    if not path.is_file():
        raise InputError(f"{path} is missing; {_AGAIN}")
    try:
        checksum = sha256(path)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error
    if checksum != description.mean_sha256:
        raise InputError(f"{path} is damaged (its checksum differs); {_AGAIN}")
    return moments.load_statistics(description.folder, description.statistics)


def sha256(path: Path) -> str:
    """The checksum of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shard(shard: Shard) -> None:
    """Raise an InputError if a shard is missing or of another length."""
    if not shard.path.is_file():
        raise InputError(f"{shard.path} is missing; {_AGAIN}")
    if (length := shard.path.stat().st_size) != shard.bytes:
        raise InputError(
            f"{shard.path} has {length} bytes where {shard.bytes} were written; "
            f"copy it again, or {_AGAIN}"
        )


def _find_fault(shards: list[Shard]) -> NoReturn:
    """Raise an InputError that names the shard that has not what it should."""
    for shard in shards:
        try:
            count = ArrayRecordReader(str(shard.path)).num_records()
        except Exception as error:
            # ArrayRecord raises many kinds on damaged bytes.
            raise InputError(
                f"{shard.path} can't be opened ({first_line(error)}); {_AGAIN}"
            ) from error
        if count != shard.examples:
            raise InputError(
                f"{shard.path} has {count} records where {shard.examples} are named; "
                f"{_AGAIN}"
            )
    raise InputError(f"{shards[0].path.parent} changed while it was opened")


def all_shards(description: Description) -> Iterator[Shard]:
    """Every shard of every split."""
    for shards in description.shards.values():
        yield from shards


def open_prepared(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """Open what `prepare` wrote."""
    del size, validation_fraction  # Both were decided when it was prepared.
    if path is None:
        raise InputError(
            "data.path is not set; prepare a data set with `python -m "
            "alexnet_jax.prepare --source=folder --input=PICTURES --output=DIR` and "
            "train with --config.data.path=DIR"
        )
    description = read_description(Path(path))
    statistics = load_statistics(description)
    for shard in all_shards(description):
        check_shard(shard)
    for split in ("train", "validation"):
        if not sum(shard.examples for shard in description.shards.get(split, ())):
            raise InputError(f"{path} has no examples of split {split}; {_AGAIN}")
    return Dataset(
        splits={
            split: PreparedSource(shards, description.size, description.encoding)
            for split, shards in description.shards.items()
        },
        class_names=description.class_names,
        class_ids=description.class_ids,
        size=description.size,
        fingerprint=fingerprint(shard.sha256 for shard in all_shards(description)),
        statistics=statistics,
    )
