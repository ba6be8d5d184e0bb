"""Waits for a drive that is away for a while, as network drives sometimes are."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import first_line


# A mount that was lost (sshfs, Google Drive), a file handle that NFS forgot, a cable.
AWAY = (errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.EHOSTDOWN)
SECONDS = 600.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0

Result = TypeVar("Result")


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


def until_reachable(
    path: Path, action: Callable[[], Result], *, seconds: float = SECONDS
) -> Result:
    """Do something on a drive, again and again while the drive is away.

    Args:
      path: on the drive; for messages.
      action: may be done more than once.
      seconds: how long, at most; then its last exception is raised. Other exceptions
        are raised at once.
    """
    begin, pause = time.monotonic(), FIRST_PAUSE
    said = False
    while True:
        try:
            result = action()
        except Exception as error:
            if not is_away(error) or time.monotonic() - begin + pause > seconds:
                raise
            if not said:
                said = True
                progress.say(
                    f"warning: {path} can't be reached ({first_line(error)[:160]}); "
                    f"trying again for {seconds / 60:.0f} minutes"
                )
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            continue
        if said:
            progress.say(f"{path} is back")
        return result
