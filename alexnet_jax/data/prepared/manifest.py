"""The manifest, `dataset.json`: reads it, and checks the other files against it."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from alexnet_jax.data import statistics
from alexnet_jax.data.dataset import LARGEST_SIZE
from alexnet_jax.data.image_tree import check_utf8
from alexnet_jax.runtime.errors import InputError


# Format 3 renamed two keys for people to read, to `repaired` and `unreadable`.
# What this module reads is the same in both.
FORMAT_VERSION = 3
OLDEST_FORMAT_READ = 2
DATASET_FILE = "dataset.json"
ENCODINGS = ("jpeg", "raw")
LONGEST_NAME = 255
LARGEST_COUNT = 2**48
AGAIN = "prepare the data set again"


# A manifest as JSON; what a reader uses of it is checked, and is in `Manifest`.
Content = dict[str, Any]


class Shard(NamedTuple):
    """A shard as the manifest lists it: its file, how many records it holds, and the
    file's length and checksum."""

    path: Path
    examples: int
    bytes: int
    sha256: str


class Manifest(NamedTuple):
    """A checked manifest; sizes, names and ids as in `Dataset`.

    Attributes:
      encoding: `jpeg` or `raw`.
      shards: the shards of each split.
      mean_sha256: checksum of `mean.npy`.
      content: the whole JSON object, with the colour statistics.
    """

    folder: Path
    size: int
    encoding: str
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]
    shards: dict[str, list[Shard]]
    mean_sha256: str
    content: Content


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a prepared data set.

    Raises:
      InputError: if it is missing, damaged or of a format not read here.
    """
    path = folder / DATASET_FILE
    check_utf8("", folder)
    if not path.is_file():
        there = folder.is_dir() and any(folder.iterdir())
        given, output = (folder, "NEW") if there else ("IMAGES", folder)
        raise InputError(
            f"{folder} holds no prepared data set ({DATASET_FILE} is missing); make "
            f"one with `python -m alexnet_jax.prepare --source=folder --input={given} "
            f"--output={output}`, or say where it is: data.path, --data_path of "
            "`evaluate`"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); {AGAIN}") from error
    if not isinstance(content, dict) or "shards" not in content:
        raise InputError(f"{folder} holds no prepared data set; it is something else")
    version = content.get("format_version")
    if not isinstance(version, int):
        raise InputError(f"{path} is damaged (no format_version); {AGAIN}")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{folder} was prepared in format {version}, newer than the "
            f"{FORMAT_VERSION} read here; upgrade alexnet_jax"
        )
    if version < OLDEST_FORMAT_READ:
        raise InputError(
            f"{folder} was prepared in format {version}, older than the "
            f"{OLDEST_FORMAT_READ} read here; {AGAIN}"
        )
    try:
        return _checked(folder, content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        kind = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is damaged ({kind}); {AGAIN}") from error


def _checked(folder: Path, content: Content) -> Manifest:
    size, encoding = content["size"], content["encoding"]
    if not (isinstance(size, int) and 0 < size <= LARGEST_SIZE):
        raise ValueError(f"size {size!r}")
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding {encoding!r}")
    names = tuple(str(name) for name in content["class_names"])
    ids = tuple(str(name) for name in content["class_ids"])
    if not names or len(names) != len(ids):
        raise ValueError(f"{len(names)} class names and {len(ids)} ids")
    return Manifest(
        folder=folder,
        size=size,
        encoding=encoding,
        class_names=names,
        class_ids=ids,
        shards={
            split: [_checked_shard(folder, entry) for entry in entries]
            for split, entries in content["shards"].items()
        },
        mean_sha256=str(content["mean_sha256"]),
        content=content,
    )


def _checked_shard(folder: Path, entry: Content) -> Shard:
    file = entry["file"]
    if PurePath(file).name != file:
        raise ValueError(f"shard {file!r:.160} lies outside of the folder")
    if not file.isprintable() or len(file.encode()) > LONGEST_NAME:
        raise ValueError(f"shard {file!r:.160} is not a file name")
    return Shard(
        folder / file,
        _count(entry["examples"]),
        _count(entry["bytes"]),
        str(entry["sha256"]),
    )


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST_COUNT:
        raise ValueError(f"a count of {value!r:.40}")
    return value


def load_statistics(manifest: Manifest) -> statistics.Statistics:
    """The mean image and the colour statistics of a prepared data set.

    Raises:
      InputError: if the mean image is missing or damaged.
    """
    path = manifest.folder / statistics.MEAN_FILE
    if not path.is_file():
        raise InputError(f"{path} is missing; {AGAIN}")
    try:
        checksum = sha256(path)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error
    if checksum != manifest.mean_sha256:
        raise InputError(f"{path} is damaged (checksum mismatch); {AGAIN}")
    try:
        return statistics.load_statistics(manifest.folder, manifest.content)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        file = manifest.folder / DATASET_FILE
        raise InputError(f"{file} is damaged ({error}); {AGAIN}") from error


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shard(shard: Shard) -> None:
    """Raise an InputError if a shard is missing or has the wrong length."""
    if not shard.path.is_file():
        raise InputError(f"{shard.path} is missing; {AGAIN}")
    if (length := shard.path.stat().st_size) != shard.bytes:
        raise InputError(
            f"{shard.path} has {length} bytes where {shard.bytes} were written; "
            f"copy it again, or {AGAIN}"
        )


def all_shards(manifest: Manifest) -> Iterator[Shard]:
    """Every shard of every split."""
    for shards in manifest.shards.values():
        yield from shards
