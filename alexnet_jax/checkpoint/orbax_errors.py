"""What Orbax and TensorStore raise on damaged files and full disks, as one line."""

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.distributed.multihost import is_device_error
from alexnet_jax.runtime.atomic import cannot_write
from alexnet_jax.runtime.errors import Failure, InputError, first_line


# Both log a page about what is raised as well.
LOGGERS = ("absl", "asyncio")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Inside the block, whatever an unreadable checkpoint raises is an InputError."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if is_device_error(error):
            # A device's own trouble, such as too little memory, is no damage.
            raise
        reason = f"{type(error).__name__}: {first_line(error)[:300]}"
        # Orbax leaves unfinished coroutines, which complain when they are collected:
        # here, where nobody listens, and not in the middle of something else.
        gc.collect()
        raise InputError(f"checkpoint {path} can't be read ({reason})") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def writable(directory: Path) -> Iterator[None]:
    """Inside the block, what a full or missing disk raises is a Failure."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        # TensorStore reports the disk in errors of all three types, on many lines.
        if is_device_error(error):
            raise
        reason = first_line(error)[:160]
        sys.unraisablehook = _without_echo
        raise Failure(cannot_write(directory, reason)) from error


def _without_echo(what: "sys.UnraisableHookArgs") -> None:
    """Report an exception that Python can't raise, except for the echo of a failed
    save: the rest of it, still running in TensorStore's threads, finds Orbax's event
    loop closed."""
    if str(what.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(what)
