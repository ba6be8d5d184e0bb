"""What Orbax and TensorStore raise on damaged files and full disks, as one line."""

import gc
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.checkpoint.errors import FILES_FILE, Damaged, Gone, not_readable
from alexnet_jax.distributed.multihost import is_device_error
from alexnet_jax.runtime.atomic import cannot_write
from alexnet_jax.runtime.errors import Failure, InputError, first_line, is_no_threads


# Both log a page about what is raised as well.
LOGGERS = ("absl", "asyncio")
# What TensorStore says of bytes that are not those of an array or of its index.
_UNDECODABLE = re.compile(
    r"DATA_LOSS|OUT_OF_RANGE|decod|decompress|CRC-?32|checksum|corrupt", re.IGNORECASE
)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Inside the block, whatever a checkpoint raises names its cause.

    Raises:
      Damaged: if bytes of it are not what was written.
      Gone: if it has been deleted in the meantime.
      InputError: for any other cause; an InputError of the block itself stays.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except Exception as error:
        if is_device_error(error) or is_no_threads(error):
            # A device's own trouble, such as too little memory, is no damage.
            raise
        # Orbax leaves unfinished coroutines, which complain when they are collected:
        # here, where nobody listens, and not in the middle of something else.
        gc.collect()
        if not os.path.lexists(path):
            raise Gone(path) from error
        if isinstance(error, InputError):
            raise
        raise _cause(path, error) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _cause(path: Path, error: Exception) -> InputError:
    """What keeps a checkpoint that is there from being restored."""
    if (refused := _refused(path)) is not None:
        return not_readable(path, refused)
    # Orbax wraps what TensorStore says.
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = f"{type(cause).__name__}: {first_line(cause)[-300:]}"
    if _UNDECODABLE.search(reason):
        return Damaged(path, f"its bytes can't be decoded ({reason})")
    # Where there is a note of the files, none is missing.
    if isinstance(cause, FileNotFoundError) and not (path / FILES_FILE).exists():
        return Damaged(path, f"a file is missing or damaged ({reason})")
    return InputError(
        f"checkpoint {path} can't be opened ({reason}); nothing shows that it is "
        "damaged: compare the versions in run.json with those installed"
    )


def _refused(path: Path) -> OSError | None:
    """The first refusal of the system to read a file or folder."""
    refused: list[OSError] = []
    for folder, _, names in os.walk(path, onerror=refused.append):
        for name in names:
            try:
                with Path(folder, name).open("rb") as file:
                    file.read(1)
            except OSError as error:
                refused.append(error)
        if refused:
            break
    return next(iter(refused), None)


@contextmanager
def writable(directory: Path) -> Iterator[None]:
    """Inside the block, what a full or missing disk raises is a Failure."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        # TensorStore reports the disk in errors of all three types, on many lines.
        if is_device_error(error) or is_no_threads(error):
            raise
        reason = first_line(error)[:160]
        _hide_echo()
        raise Failure(cannot_write(directory, reason)) from error


def _hide_echo() -> None:
    """Report what Python can't raise as before, except for the echo of a failed save:
    the rest of it, still running in TensorStore's threads, finds Orbax's event loop
    closed."""
    before = sys.unraisablehook

    def hook(what: "sys.UnraisableHookArgs") -> None:
        if str(what.exc_value) != "Event loop is closed":
            before(what)

    sys.unraisablehook = hook
