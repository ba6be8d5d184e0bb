"""Starts a training again after a death that nobody asked for."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from alexnet_jax.runtime import progress, signals
from alexnet_jax.runtime.progress import counting


# Seconds before the first restart, and at most before one.
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0
SECONDS_BETWEEN_LOOKS = 0.1
# Of a command with wrong input, which is wrong the next time too.
BAD_INPUT = 2
# Of a supervised training whose loss is no longer finite, which a restart repeats.
DIVERGED = 3
# Of a supervised training that another process did not join, which may come yet.
NOT_JOINED = 4
# Names the process that supervises, to the training that it starts.
SUPERVISOR = "ALEXNET_JAX_SUPERVISOR"
# Of Linux's prctl: a signal for this process when its parent ends.
SIGNAL_OF_PARENT = 1


def supervise(
    command: Sequence[str],
    restarts: int,
    latest: Callable[[], int | None],
    *,
    fetches: bool = False,
    pause: float = FIRST_PAUSE,
) -> int:
    """Run a command that trains, and again after it has died.

    It is not run again where it ended well, was given wrong input, diverged or was
    asked to stop, nor where the last restart has saved no step beyond the one before
    it, or all that was saved is gone: it would begin anew. One that other processes did
    not join has had no chance to save. A signal for this process is passed on.

    Args:
      command: the training; the same command continues it.
      restarts: how often it is started again, at most.
      latest: the step of the latest checkpoint, None where there is none.
      fetches: whether the command fetches from a mirror what is gone.
      pause: seconds before the first restart; each later one waits twice as long, up to
        `LONGEST_PAUSE`.

    Returns:
      The exit status of its last run, 128 and the number of a signal that ended it.
    """
    with _Child() as child:
        before = latest()
        for number in range(restarts + 1):
            status = child.run(command)
            if status == DIVERGED:
                return 1
            if child.asked or status in (0, BAD_INPUT) or _is_asked(status):
                return status
            joined = status != NOT_JOINED
            died = f"the training has ended with exit status {status}"
            if not joined:
                died, status = "another process did not join the training", 1
            reached, seen = _latest(latest, before)
            if seen and before is not None and reached is None and not fetches:
                progress.say(f"{died}, and its checkpoints are gone: giving up")
                return status
            if number and reached == before and joined and seen:
                progress.say(f"{died}; restart {number} has saved no step: giving up")
                return status
            if number == restarts:
                which = counting(restarts, "restart")
                progress.say(f"{died} after {which}: giving up")
                return status
            progress.say(
                f"{died}, {_at(reached)}; restart {number + 1} of {restarts} in "
                f"{pause:.0f} s"
            )
            if child.asked_within(pause):
                return 128 + child.asked
            pause, before = min(2 * pause, LONGEST_PAUSE), reached
    raise AssertionError("unreachable")


def _latest(
    latest: Callable[[], int | None], before: int | None
) -> tuple[int | None, bool]:
    """The step of the latest checkpoint, or the one known before where a drive is away;
    and whether it was seen."""
    try:
        return latest(), True
    except OSError as error:
        progress.say(f"warning: the checkpoints can't be seen ({error})")
        return before, False


def _at(step: int | None) -> str:
    return "with nothing saved" if step is None else f"saved at step {step}"


def _is_asked(status: int) -> bool:
    """Whether an exit status is that of a signal that asks a training to stop."""
    return status - 128 in signals.SIGNALS


def is_supervised() -> bool:
    """Whether `supervise` runs in this process's parent; then the system is asked to
    have this process save and stop when that one is killed."""
    if os.environ.get(SUPERVISOR) != str(os.getppid()):
        return False
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SIGNAL_OF_PARENT, signal.SIGTERM)
    return True


class _Child:
    """Runs commands; inside the block the signals that ask to stop go to them.

    Attributes:
      asked: the first such signal's number, 0 before one has come.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._not_passed_on: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> "_Child":
        for number in signals.stopping():
            before = signal.signal(number, self._note)
            self._restore.callback(signal.signal, number, before)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore.close()

    def run(self, command: Sequence[str]) -> int:
        """Run a command to its end; returns its exit status."""
        # In a group of its own: Ctrl-C, which a terminal sends to a whole group, would
        # reach it twice, and the second one ends a training at once.
        self._process = subprocess.Popen(
            command,
            process_group=0,
            env={**os.environ, SUPERVISOR: str(os.getpid())},
        )
        self._pass_on()
        status = self._process.wait()
        return status if status >= 0 else 128 - status

    def asked_within(self, seconds: float) -> bool:
        """Wait; returns early, and true, where a signal has come."""
        end = time.monotonic() + seconds
        while not self.asked and time.monotonic() < end:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return bool(self.asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or number
        self._not_passed_on.append(number)
        self._pass_on()

    def _pass_on(self) -> None:
        # Each once, though a signal may come in the middle of this.
        while self._process is not None and self._not_passed_on:
            self._process.send_signal(self._not_passed_on.pop(0))
