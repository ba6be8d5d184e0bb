"""One process at a time in a folder: a run in its work directory, or a preparation.

The lock is the system's (`flock`), so it ends with the process that holds it, however
the process ends: a lock file that a killed process left behind locks nothing.
"""

import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError


LOCK_FILE = "lock"
# The errors of a file system that has no locks.
WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
# Files that could not be locked, of which the user knows.
_warned: set[Path] = set()


@contextmanager
def locked(folder: Path, taken: str) -> Iterator[None]:
    """Hold a folder for the block.

    Raises:
      InputError: if another process holds it. The message begins with `taken`, as "run
        is in use", and names the other's host and process.
    """
    path = folder / LOCK_FILE
    with writing(path):
        descriptor = _acquire(path, taken)
    try:
        holder = {
            "host": platform.node(),
            "process": os.getpid(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        # Before the lock is released: afterwards the file may be another process's. One
        # that can't be removed locks nothing, and hides no other error.
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, taken: str) -> int:
    """Create and lock the file; returns its descriptor."""
    while True:
        # O_NOFOLLOW: a link put here would have its target written to.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise InputError(
                f"{taken} by {holder}; wait for it, stop it, or choose another folder"
            ) from error
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                os.close(descriptor)
                raise
            if path not in _warned:
                _warned.add(path)
                progress.say(
                    f"{path} can't be locked on this file system ({error.strerror}); "
                    "make sure that no other run uses the directory"
                )
            return descriptor
        if _is_at(descriptor, path):
            return descriptor
        # Its holder removed the file after we opened it and before we locked it: we
        # hold a lock that no other process can see. Try again with a new file.
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return (
            f"process {int(holder['process'])} on {holder['host']} "
            f"since {holder['since']}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
