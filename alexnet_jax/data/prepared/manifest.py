"""What `dataset.json` says of a prepared data set, and its files against it."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from alexnet_jax.data import statistics as moments
from alexnet_jax.data.dataset import LARGEST_SIZE
from alexnet_jax.runtime.errors import InputError


FORMAT_VERSION = 2
DATASET_FILE = "dataset.json"
ENCODINGS = ("jpeg", "raw")
LONGEST_NAME = 255
LARGEST_COUNT = 2**48
AGAIN = "prepare the data set again"


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
        raise InputError(f"{path} is damaged ({error}); {AGAIN}") from error
    if not isinstance(described, dict) or "shards" not in described:
        raise InputError(f"{folder} holds no prepared data set; it is something else")
    version = described.get("format_version")
    if not isinstance(version, int):
        raise InputError(f"{path} is damaged (no format_version); {AGAIN}")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{folder} was prepared in format {version}, newer than the "
            f"{FORMAT_VERSION} read here; upgrade alexnet_jax"
        )
    if version < FORMAT_VERSION:
        raise InputError(
            f"{folder} was prepared in format {version}, before {FORMAT_VERSION}; "
            f"{AGAIN}"
        )
    try:
        return _checked(folder, described)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        kind = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is damaged ({kind}); {AGAIN}") from error


def _checked(folder: Path, described: dict[str, Any]) -> Description:
    size, encoding = described["size"], described["encoding"]
    if not (isinstance(size, int) and 0 < size <= LARGEST_SIZE):
        raise ValueError(f"size {size!r}")
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding {encoding!r}")
    shards = {}
    for split, members in described["shards"].items():
        shards[split] = []
        for member in members:
            file = member["file"]
            if PurePath(file).name != file:
                raise ValueError(f"shard {file!r:.160} lies outside of the folder")
            if not file.isprintable() or len(file.encode()) > LONGEST_NAME:
                raise ValueError(f"shard {file!r:.160} has no file's name")
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
    if type(value) is not int or not 0 <= value <= LARGEST_COUNT:
        raise ValueError(f"a count of {value!r:.40}")
    return value


def load_statistics(description: Description) -> moments.Statistics:
    """The mean picture and the colours of a prepared data set.

    Raises:
      InputError: if the mean picture is missing or damaged.
    """
    path = description.folder / moments.MEAN_FILE
    if not path.is_file():
        raise InputError(f"{path} is missing; {AGAIN}")
    try:
        checksum = sha256(path)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error
    if checksum != description.mean_sha256:
        raise InputError(f"{path} is damaged (its checksum differs); {AGAIN}")
    try:
        return moments.load_statistics(description.folder, description.statistics)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        described = description.folder / DATASET_FILE
        raise InputError(f"{described} is damaged ({error}); {AGAIN}") from error


def sha256(path: Path) -> str:
    """The checksum of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shard(shard: Shard) -> None:
    """Raise an InputError if a shard is missing or of another length."""
    if not shard.path.is_file():
        raise InputError(f"{shard.path} is missing; {AGAIN}")
    if (length := shard.path.stat().st_size) != shard.bytes:
        raise InputError(
            f"{shard.path} has {length} bytes where {shard.bytes} were written; "
            f"copy it again, or {AGAIN}"
        )


def all_shards(description: Description) -> Iterator[Shard]:
    """Every shard of every split."""
    for shards in description.shards.values():
        yield from shards
