"""One process at a time in a folder: a run in its work directory, a preparation.

The lock is the system's own (`flock`), and so ends with the process that holds it, by
whatever it ends: a lock file that a dead process left behind binds nobody.
"""

import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError


LOCK_FILE = "lock"
# A file system that has no locks says one of these.
WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextmanager
def locked(folder: Path, taken: str) -> Iterator[None]:
    """Hold a folder for the block.

    Args:
      folder: gets the lock's file.
      taken: what is to be said where another has it, as "run is in use".

    Raises:
      InputError: if another process holds it; the message names its host and process.
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
        # While it is held, so that nobody's but our own is removed.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, taken: str) -> int:
    """The descriptor of the locked file."""
    while True:
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
            progress.say(
                f"{path} can't be locked here ({error.strerror}): see to it that no "
                "other run uses the directory"
            )
            return descriptor
        if _is_at(descriptor, path):
            return descriptor
        # Its holder removed the file between our opening and our locking it.
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
