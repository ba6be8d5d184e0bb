"""The exceptions for what a user can mend, and how a command ends."""

import logging
import math
import numbers
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn


class InputError(ValueError):
    """Something given by the user is wrong.

    The message is one line: what is wrong, where, and how to mend it. The commands
    print it without a traceback and exit with status 2.
    """


class Failure(RuntimeError):
    """Something went wrong under way that is no fault of what was given.

    The message is one line, as an InputError's; the commands exit with status 1. Where
    `abrupt` is set they do not wait for threads or processes that may never end.
    """

    abrupt = False


class ProcessLost(Failure):
    """Another process of a run has ended or fallen silent."""

    # At an ordinary exit JAX would wait for the processes that are lost.
    abrupt = True


class DataStalled(Failure):
    """The data have not come within their time."""

    # The thread or process that hangs would be waited for.
    abrupt = True


class Diverged(Failure):
    """The loss or the state is no longer finite."""


class Interrupted(Exception):
    """The run was asked to stop and has saved what it had."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.exit_status = 128 + number


def check_number(
    name: str,
    value: Any,
    *,
    least: float = 0,
    below: float = math.inf,
    whole: bool = False,
) -> None:
    """Raise an InputError if a number that a user gave is out of its range.

    Args:
      name: what the user knows it as.
      value: what was given; not a number and infinity are never in range.
      least: the smallest that is.
      below: what it must not reach.
      whole: whether it must be an integer.
    """
    # NumPy's are among them.
    kind: Any = numbers.Integral if whole else numbers.Real
    if not isinstance(value, kind):
        wanted = f"be a {'whole ' if whole else ''}number"
    elif least <= value < below and value > -math.inf:
        return
    elif below < math.inf:
        wanted = f"lie from {least} to below {below}"
    elif not math.isfinite(value):
        wanted = "be finite"
    else:
        wanted = f"be at least {least}" if least else "not be negative"
    raise InputError(f"{name}={value!r} must {wanted}")


def first_line(error: BaseException) -> str:
    """An exception's message in one line, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside the block, an error of the system to write to a path is a Failure."""
    try:
        yield
    except OSError as error:
        raise Failure(
            cannot_write(path, error.strerror or first_line(error))
        ) from error


def cannot_write(path: Path, reason: str) -> str:
    """The line for a disk that is full, gone or read-only."""
    return (
        f"{path} can't be written ({reason}); make room or mend the disk, and give the "
        "same command again: it goes on from what was saved last"
    )


def exit_with(main: Callable[[], None]) -> NoReturn:
    """Run a command and leave with its exit status.

    0 done, 1 failed, 2 wrong usage or bad input in one line, 130 or 143 interrupted.
    """
    status = 0
    # What goes wrong in a library is told below, in one line and not in its own words.
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    # Until a run is ready to save something, and in commands that save nothing.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except Failure as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = 1
        if error.abrupt:
            os._exit(status)
    except Interrupted as error:
        status = error.exit_status
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # Whoever read the output has left; nothing more can be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # The system's word for a disk that is full, a file that has gone.
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


def _unraisable(what: Any) -> None:
    """Tell of an exception that Python can't raise, but for the echo of a failed save.

    The save has failed in one line; what of it was still under way in TensorStore's
    threads then finds Orbax's event loop closed.
    """
    if str(what.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(what)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)
