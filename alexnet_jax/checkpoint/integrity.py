"""What a checkpoint must be made of, and the checksums that prove its arrays."""

import collections
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from alexnet_jax.distributed import placement
from alexnet_jax.runtime.errors import InputError


# An array, its abstract form, or Orbax's metadata of it.
Leaf = Any

# No run writes more files in a checkpoint, nor a larger file that is not an array.
MAX_FILES = 10_000
MAX_NOTE_BYTES = 2**24
DIGEST_BYTES = hashlib.sha256().digest_size


def check_files(path: Path) -> None:
    """Check that a checkpoint, or a folder of them, is made of plain files and folders.

    A checkpoint may come from a stranger: a link would be followed, and a device read,
    wherever it leads.

    Raises:
      InputError: naming a link or device, too many files, or a file that is too large.
    """
    counts: collections.Counter[str] = collections.Counter()
    for folder, folders, files in os.walk(path, followlinks=False):
        # Counted by checkpoint: many checkpoints are no sign of anything.
        within = next(iter(Path(folder).relative_to(path).parts), "")
        for name in (*folders, *files):
            found = Path(folder, name)
            try:
                status = found.lstat()
            except FileNotFoundError:
                # An old checkpoint that the run is deleting at this moment.
                continue
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
      InputError: naming the array that is missing or differs.
    """
    for name, array in expected.items():
        if name not in stored:
            raise InputError(f"checkpoint {path} has no array {name}")
        found = stored[name]
        shape, dtype = tuple(found.shape), np.dtype(found.dtype)
        if shape != tuple(array.shape) or dtype != np.dtype(array.dtype):
            raise InputError(
                f"checkpoint {path} is of another network: array {name} is "
                f"{dtype} of {shape} where {np.dtype(array.dtype)} of "
                f"{tuple(array.shape)} is needed"
            )
        # A chunk is read as a whole: one larger than its array would take any memory.
        chunk = getattr(found.storage_metadata, "chunk_shape", None) or ()
        if any(part > max(1, whole) for part, whole in zip(chunk, shape, strict=True)):
            raise InputError(
                f"checkpoint {path} is damaged: array {name} of {shape} is stored in "
                f"chunks of {tuple(chunk)}"
            )


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
