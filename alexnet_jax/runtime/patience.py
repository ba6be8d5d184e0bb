"""Waits for a drive that is away for a while, as network drives sometimes are."""

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import Failure, first_line


# A mount that was lost (sshfs, Google Drive) and one whose program has just died, a
# file handle that NFS forgot, a server of NFS that does not answer, a cable.
AWAY = (
    *(errno.ENOTCONN, errno.ECONNABORTED, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.EIO, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH),
)
SECONDS = 600.0
# Of a read: shorter than a batch may take (`data.timeout`).
SECONDS_TO_READ = 240.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0

Result = TypeVar("Result")

# Folders that threads of this process wait for: one of them says so.
_waited_for: set[Path] = set()
_asking = threading.Lock()


def is_waiting() -> bool:
    """Whether a thread of this process waits for a drive that is away."""
    return bool(_waited_for)


def is_away(error: BaseException | None) -> bool:
    """Whether an exception, or what caused it, is of a drive that may come back."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in AWAY:
            return True
        # TensorStore gives the system's message alone.
        if any(os.strerror(number) in str(error) for number in AWAY):
            return True
        error = error.__cause__
    return False


def is_gone(error: BaseException, folder: Path) -> bool:
    """Whether a file in a folder can't be read because its drive is away, and not
    because the file is missing or damaged."""
    if os.strerror(errno.ENOENT) in str(error):
        # A drive that was unmounted; a single file that is missing is not that.
        return not os.path.isdir(folder)
    if not is_away(error):
        return False
    if os.strerror(errno.EIO) not in str(error):
        return True
    # Of a bad sector too, and then the folder can be listed.
    try:
        with os.scandir(folder) as entries:
            next(entries, None)
    except OSError:
        return True
    return False


def cannot_reach(path: object, error: BaseException) -> Failure:
    """The error for a file whose drive stays away."""
    return Failure(
        f"{path} can't be reached ({first_line(error)[:160]}); when its drive is back, "
        "give the same command again"
    )


def read(root: Path, where: str, action: Callable[[], Result]) -> Result:
    """What an action reads on a drive, again and again while the drive is away.

    Args:
      root: a folder on the drive.
      where: what is read, for the message.
      action: may raise what was caused by the system's error, as InputError. What it
        keeps open must be opened anew, since it may stay lost.

    Raises:
      Failure: if the drive stays away.
    """

    def away(error: Exception) -> bool:
        return is_gone(error.__cause__ or error, root)

    try:
        return until_reachable(root, action, seconds=SECONDS_TO_READ, away=away)
    except Exception as error:
        if away(error):
            raise cannot_reach(where, error) from error
        raise


def until_reachable(
    path: Path,
    action: Callable[[], Result],
    *,
    seconds: float = SECONDS,
    away: Callable[[Exception], bool] = is_away,
) -> Result:
    """Do something on a drive, again and again while the drive is away.

    Args:
      path: on the drive; for messages. Threads that wait for the same say it once.
      action: may be done more than once.
      seconds: how long, at most; then its last exception is raised. Other exceptions
        are raised at once.
      away: whether an exception is that of a drive that is away.
    """
    begin, pause = time.monotonic(), FIRST_PAUSE
    said = False
    while True:
        try:
            result = action()
        except Exception as error:
            if not away(error) or time.monotonic() - begin + pause > seconds:
                if said:
                    _waited_for.discard(path)
                raise
            if not said and _is_first(path):
                said = True
                progress.say(
                    f"warning: {path} can't be reached ({first_line(error)[:160]}); "
                    f"trying again for {seconds / 60:.0f} minutes"
                )
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            continue
        if said:
            _waited_for.discard(path)
            progress.say(f"{path} is back")
        return result


def _is_first(path: Path) -> bool:
    """Whether no other thread waits for a path yet; from now on this one does."""
    with _asking:
        if path in _waited_for:
            return False
        _waited_for.add(path)
        return True
