"""What a checkpoint must be made of, and the digests that prove its arrays."""

import collections
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax.distributed import mesh
from alexnet_jax.runtime.errors import InputError, first_line


METRIC = "top1_error"
METRICS = "metrics"

# No checkpoint of ours has more files, nor have so many been kept, and none of its
# notes has more bytes.
MAX_FILES = 10_000
MAX_NOTE_BYTES = 2**24


def check_files(path: Path) -> None:
    """See that a folder of checkpoints is made of plain files and folders alone.

    A link would be followed, and a device read, wherever it leads.

    Raises:
      InputError: naming what is there besides, or has a size that nothing of ours has.
    """
    counts: collections.Counter[str] = collections.Counter()
    for folder, folders, files in os.walk(path, followlinks=False):
        # Each checkpoint, or part of one, by itself.
        within = next(iter(Path(folder).relative_to(path).parts), "")
        for name in (*folders, *files):
            found = Path(folder, name)
            try:
                status = found.lstat()
            except FileNotFoundError:
                # An old checkpoint that is being removed just now.
                continue
            kind = status.st_mode
            note = not any(part in ("d", "array") for part in found.parts[-3:-1])
            counts[within] += 1
            wrong = None
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                wrong = "is neither a file nor a folder"
            elif counts[within] > MAX_FILES:
                wrong = f"is one file of more than {MAX_FILES}"
            elif note and status.st_size > MAX_NOTE_BYTES:
                wrong = f"has {status.st_size} bytes, and no note has so many"
            if wrong:
                raise InputError(
                    f"checkpoint {path} is damaged or not ours: {found} {wrong}; "
                    "remove it"
                )


def check_shapes(path: Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """See that arrays have the shapes they must have, before their bytes are read.

    A chunk is read whole: one that is larger than its array would be memory for the
    asking.

    Raises:
      InputError: naming the array that is missing or other than expected.
    """
    for name, array in expected.items():
        if name not in stored:
            raise InputError(f"checkpoint {path} has no array {name}; remove it")
        found = stored[name]
        shape, dtype = tuple(found.shape), np.dtype(found.dtype)
        if shape != tuple(array.shape) or dtype != np.dtype(array.dtype):
            raise InputError(
                f"checkpoint {path} is of another network or damaged: array {name} is "
                f"{dtype} of {shape} where {np.dtype(array.dtype)} of "
                f"{tuple(array.shape)} is needed; remove it"
            )
        chunk = getattr(found.storage_metadata, "chunk_shape", None) or ()
        if any(part > max(1, whole) for part, whole in zip(chunk, shape, strict=True)):
            raise InputError(
                f"checkpoint {path} is damaged: array {name} of {shape} is stored in "
                f"chunks of {tuple(chunk)}; remove it"
            )


def damaged_notes(directory: Path) -> dict[str, InputError]:
    """The checkpoints whose validation error can't be read, by name, with what is
    wrong; there may be none of it."""
    damaged: dict[str, InputError] = {}
    for note in sorted(directory.glob(f"*/{METRICS}/{METRICS}")):
        try:
            float(json.loads(note.read_bytes())[METRIC])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            damaged[note.parents[1].name] = InputError(
                f"checkpoint {note.parents[1]} is damaged: {note} can't be read "
                f"({first_line(error)}); remove the checkpoint"
            )
    return damaged


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their dotted names."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def digests(state: Any, *, abstract: bool = False) -> dict[str, Any]:
    """The SHA-256 of each array's type, shape and bytes, by its name in the tree; or,
    abstract, what will hold it."""
    if abstract:
        return {name: np.zeros(32, np.uint8) for name in named(state)}
    return {name: _digest(mesh.whole(array)) for name, array in named(state).items()}


def error_digest(error: float | None) -> dict[str, np.ndarray]:
    """That of the validation error, or of its not being there."""
    return {METRIC: _digest(np.float64(np.nan if error is None else error))}


def _digest(array: np.ndarray | np.float64) -> np.ndarray:
    host = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{host.dtype} {host.shape}".encode())
    digest.update(host.view(np.uint8).reshape(-1).data if host.ndim else host.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)
