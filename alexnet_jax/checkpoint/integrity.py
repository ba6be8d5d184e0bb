"""What a checkpoint must be made of, and the checksums that prove its arrays.

Arrays are proved by the SHA-256 of their values. So that damage to anything else has a
proof as well, a note lists the files when they have been read back: the length of each,
and the SHA-256 of small ones, which hold all but the numbers of large arrays.
"""

import collections
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from alexnet_jax.checkpoint import directory as directories
from alexnet_jax.checkpoint.errors import (
    FILES_FILE,
    Damaged,
    OtherNetwork,
    not_readable,
)
from alexnet_jax.distributed import placement
from alexnet_jax.runtime import listing
from alexnet_jax.runtime.errors import InputError


# An array, its abstract form, or Orbax's metadata of it.
Leaf = Any

# No run writes more files in a checkpoint, nor a larger file that is not an array.
MAX_FILES = 10_000
MAX_NOTE_BYTES = 2**24
DIGEST_BYTES = hashlib.sha256().digest_size
MOST_BYTES_HASHED = 2**20


def check_files(path: Path) -> None:
    """Check that a checkpoint, or a folder of them, is made of plain files and folders.

    A checkpoint may come from a stranger: a link would be followed, and a device read,
    wherever it leads.

    Raises:
      InputError: naming a link or device, too many files, a file that is too large, or
        a folder that may not be read.
    """

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise not_readable(path, error) from error

    counts: collections.Counter[str] = collections.Counter()
    for folder, folders, files in os.walk(path, onerror=unreadable):
        # Counted by checkpoint: many checkpoints are no sign of anything.
        within = next(iter(Path(folder).relative_to(path).parts), "")
        for name in (*folders, *files):
            found = Path(folder, name)
            try:
                status = found.lstat()
            except FileNotFoundError:
                # An old checkpoint that the run is deleting at this moment.
                continue
            except OSError as error:
                raise not_readable(found, error) from error
            counts[within] += 1
            array = any(part in ("d", "array") for part in found.parts[-3:-1])
            wrong = None
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                wrong = "is neither a file nor a folder"
            elif counts[within] > MAX_FILES:
                wrong = f"is one of more than {MAX_FILES} files"
            elif not array and status.st_size > MAX_NOTE_BYTES:
                wrong = f"has {status.st_size} bytes, which no metadata file has"
            if wrong:
                raise InputError(
                    f"checkpoint {path} was not written by alexnet_jax alone: {found} "
                    f"{wrong}"
                )


def check_shapes(
    path: Path, stored: Mapping[str, Leaf], expected: Mapping[str, Leaf]
) -> None:
    """Check that arrays have the expected shapes, before their bytes are read.

    Args:
      path: of the checkpoint.
      stored: Orbax's metadata of its arrays, by name.
      expected: arrays, or what has their `shape` and `dtype`, by name.

    Raises:
      OtherNetwork: naming the array that is missing or differs.
      Damaged: naming one that is stored in chunks larger than itself.
    """
    for name, array in expected.items():
        if name not in stored:
            raise OtherNetwork(path, f"it has no array {name}")
        found = stored[name]
        shape, dtype = tuple(found.shape), np.dtype(found.dtype)
        if shape != tuple(array.shape) or dtype != np.dtype(array.dtype):
            wide = dtype == np.float64 and np.dtype(array.dtype) == np.float32
            raise OtherNetwork(
                path,
                f"array {name} is {dtype} of {shape} where {np.dtype(array.dtype)} of "
                f"{tuple(array.shape)} is needed"
                + ("; JAX's 64-bit mode was on in its training" if wide else ""),
            )
        # A chunk is read as a whole: one larger than its array would take any memory.
        chunk = getattr(found.storage_metadata, "chunk_shape", None) or ()
        if any(part > max(1, whole) for part, whole in zip(chunk, shape, strict=True)):
            raise Damaged(
                path, f"array {name} of {shape} is stored in chunks of {tuple(chunk)}"
            )


def record_files(path: Path) -> None:
    """Write the note that lists a checkpoint's files, for `check_recorded`.

    Raises:
      Failure: if it can't be written.
    """
    listed = {
        file.relative_to(path).as_posix(): _length_and_digest(file)
        for file in listing.files_in(path)
    }
    directories.write_note(path / FILES_FILE, {"files": listed})


def check_recorded(path: Path) -> None:
    """Check that the files of a checkpoint are those that its note lists; checkpoints
    of before version 0.3 have none.

    Raises:
      Damaged: naming the file that is missing or differs.
      OSError: if one can't be read.
    """
    for name, recorded in (
        directories.read_note(path / FILES_FILE).get("files", {}).items()
    ):
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise InputError(f"checkpoint {path} was not written by alexnet_jax alone")
        try:
            found = _length_and_digest(path / name)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Damaged(path, f"{name} is missing") from error
        if found != recorded:
            raise Damaged(path, f"{name} is not what was written")


def _length_and_digest(file: Path) -> list[object]:
    length = file.stat().st_size
    if length > MOST_BYTES_HASHED:
        return [length, None]
    return [length, hashlib.sha256(file.read_bytes()).hexdigest()]


def named(tree: PyTree) -> dict[str, Leaf]:
    """The leaves of a tree by their dotted names."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def digests(state: PyTree) -> dict[str, np.ndarray]:
    """The SHA-256 of each array's type, shape and bytes, by its name in the tree.

    To be called by all processes together, since each may hold a part of an array.
    """
    arrays = named(state).items()
    return {name: _digest(placement.whole(array)) for name, array in arrays}


def abstract_digests(state: PyTree) -> dict[str, np.ndarray]:
    """Arrays of the shape that `digests` gives, to restore into."""
    return {name: np.zeros(DIGEST_BYTES, np.uint8) for name in named(state)}


def _digest(array: np.ndarray) -> np.ndarray:
    host = np.ascontiguousarray(array)
    # NumPy makes a number an array of one; its shape is hashed as it was.
    digest = hashlib.sha256(f"{host.dtype} {np.shape(array)}".encode())
    digest.update(host.view(np.uint8).reshape(-1).data)
    return np.frombuffer(digest.digest(), np.uint8)
