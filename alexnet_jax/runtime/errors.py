"""The exceptions that end a command, and the check of numbers that users give."""

import math
import numbers
from collections.abc import Collection
from typing import Any


class InputError(ValueError):
    """Something that the user gave is wrong; commands exit with status 2.

    The message is one line: what is wrong, where, and how to fix it.
    """


class UnreadableImage(InputError):
    """An image, or several, that can't be read or decoded."""


class Failure(RuntimeError):
    """A disk, a device or another process failed; commands exit with status 1.

    The message is one line, as an InputError's. Where `abrupt` is set commands do not
    wait for threads or processes that may never end.
    """

    abrupt = False


class ProcessLost(Failure):
    """Another process of a run has ended or does not answer."""

    # At an ordinary exit JAX would wait for the lost process.
    abrupt = True


class DataStalled(Failure):
    """A batch did not arrive in time."""

    # An ordinary exit would wait for the thread or process that hangs.
    abrupt = True


NOT_SAVED = "nothing of it is saved, and the latest checkpoint is whole"


class Diverged(Failure):
    """The loss or the state is no longer finite.

    Attributes:
      step: after which it is so.
      what: is not finite; the beginning of the message.
    """

    def __init__(self, step: int, what: str) -> None:
        super().__init__(
            f"{what}; {NOT_SAVED}; try a lower config.schedule.learning_rate in "
            "another --workdir"
        )
        self.step, self.what = step, what


class Miscomputed(Failure):
    """A device gave other numbers when it computed the same step again."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}; {NOT_SAVED}; give the same command again on another device: it "
            "continues from that checkpoint"
        )


class Interrupted(Exception):
    """The run was asked to stop, and what it had is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.exit_status = 128 + number


# What ends all processes of a run at the same place.
ENDS_ALL = (Interrupted, Diverged, Miscomputed)


def check_number(
    name: str,
    value: object,
    *,
    least: float = 0,
    below: float = math.inf,
    whole: bool = False,
) -> None:
    """Raise an InputError unless `value` is a finite number in a range, or an integer
    if `whole` is set; `name` is the flag or key that the user sets."""
    # The abstract classes, since NumPy's numbers are among them.
    kind: Any = numbers.Integral if whole else numbers.Real
    if not isinstance(value, kind):
        wanted = f"be a {'whole ' if whole else ''}number"
    elif least <= value < below and value > -math.inf:  # type: ignore[operator]
        return
    elif below < math.inf:
        wanted = f"lie from {least} to below {below}"
    elif not math.isfinite(value):  # type: ignore[arg-type]
        wanted = "be finite"
    else:
        wanted = f"be at least {least}" if least else "not be negative"
    raise InputError(f"{name}={value!r} must {wanted}")


def check_choice(name: str, value: object, known: Collection[str]) -> None:
    """Raise an InputError if the value of a flag or key is none of those known."""
    if value not in known:
        raise InputError(f"{name}={value!r} unknown; choose from {', '.join(known)}")


def first_line(error: BaseException) -> str:
    """An exception's message in one line, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_no_threads(error: BaseException | None) -> bool:
    """Whether an exception, or what came before it, says that the system did not start
    a thread or a process: a limit of the user, a container or a job is reached."""
    while error is not None:
        # Of a thread Python raises the one, of a process the other.
        if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
            return True
        if isinstance(error, BlockingIOError) and error.filename is None:
            return True
        error = error.__cause__ or error.__context__
    return False
