"""Files that are written whole or not at all, also where the power fails, and the
message of a failing disk."""

import errno
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from alexnet_jax.runtime import listing
from alexnet_jax.runtime.errors import Failure, first_line


PART = ".part"
FORBIDDEN = (errno.EACCES, errno.EPERM)
# What file systems answer that can't sync: a folder on CIFS, sshfs and VirtualBox.
WITHOUT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def replace(path: Path, data: str | bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one.

    On return the new one is on the disk, and a power cut does not lose it.
    """
    if isinstance(data, str):
        # Names of files that are not UTF-8 are shown with escapes.
        data = data.encode("utf-8", "backslashreplace")
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """`replace`, with what the block writes."""
    part = path.with_name(path.name + PART)
    with removed_on_error(part):
        with part.open("wb") as file:
            yield file
            file.flush()
            sync_open(file.fileno())
        part.replace(path)
        sync(path.parent)


@contextmanager
def removed_on_error(part: Path) -> Iterator[None]:
    """Inside the block an exception removes an unfinished file."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """`replace` with JSON."""
    replace(path, json.dumps(value, indent=2) + "\n")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, so that a power cut does not lose it."""
    new = [*itertools.takewhile(lambda p: not p.exists(), (path, *path.parents))]
    path.mkdir(parents=True, exist_ok=True)
    for made in new:
        sync(made.parent)


def sync_tree(folder: Path) -> None:
    """`sync` of every file and folder in a folder, and of the folder itself."""
    for above, names in listing.walk(folder):
        for name in names:
            sync(above / name)
        sync(above)


def sync(path: Path) -> None:
    """Have the system write a file or a folder to the disk, if the disk can.

    Of a folder these are the names in it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if not path.is_dir():
            raise
        # Names may be added where they may not be read: nothing more can be done.
        return
    try:
        sync_open(descriptor)
    finally:
        os.close(descriptor)


def sync_open(descriptor: int) -> None:
    """`sync` of a file that is open."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in WITHOUT_SYNC:
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside the block an OSError becomes a Failure that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise Failure(cannot_write(path, reason)) from error


def cannot_write(path: Path, reason: str) -> str:
    """The message for a disk that is full, gone or read-only, or may not be written."""
    way = "free some space or fix the disk"
    if reason in map(os.strerror, FORBIDDEN):
        way = "get the right to write there"
    return (
        f"{path} can't be written ({reason}); {way}, then give the same command again: "
        "what was saved before is kept"
    )
