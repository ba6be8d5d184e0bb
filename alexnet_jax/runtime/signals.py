"""Signals that ask a run to stop: noted, the loop saves and then stops.

An exception raised in the middle of a step would leave the state donated to the device
and half-written files; so the loop asks between steps instead.
"""

import contextlib
import os
import signal
import threading
import time
from types import FrameType

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import Interrupted


# Those of a person, or of a system that shuts down: Ctrl-C; kill, docker stop.
FROM_A_PERSON = (signal.SIGINT, signal.SIGTERM)
# A closed terminal, the warnings of Slurm and submitit, a limit on processor time.
SIGNALS = (
    *FROM_A_PERSON,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
# `timeout` sends SIGTERM twice, to the process and to its group.
SECONDS_OF_A_REPEAT = 1.0


def stopping() -> list[signal.Signals]:
    """The signals that ask to stop: not SIGHUP where it is ignored, as under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [n for n in SIGNALS if not (ignored and n == signal.SIGHUP)]


def ignore() -> None:
    """To be called in a worker: signals that reach the whole group of processes are for
    the main process, which decides when its workers end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Interrupts:
    """Inside the block, `received` is the first signal's number, or None before it.

    A second Ctrl-C or SIGTERM ends the process at once, for users who don't want to
    wait. The others change nothing a second time: a terminal that closes and a limit on
    processor time send theirs again and again.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        # The first signal of a person, and when it came.
        self._asked: tuple[int, float] | None = None
        self._restore = contextlib.ExitStack()

    def check(self) -> None:
        """Raise Interrupted if a signal has come; for places with nothing to save."""
        if self.received is not None:
            raise Interrupted(self.received)

    def __enter__(self) -> "Interrupts":
        # Python handles signals in the main thread only, and refuses to set a handler
        # elsewhere; in a notebook's or test's thread the block does nothing.
        main = threading.current_thread() is threading.main_thread()
        for number in stopping() if main else ():
            before = signal.signal(number, self._handle)
            # None is a handler in C, which Python can't set again.
            before = signal.SIG_DFL if before is None else before
            self._restore.callback(signal.signal, number, before)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        if number not in FROM_A_PERSON:
            return
        now = time.monotonic()
        if self._asked is None:
            self._asked = number, now
            return
        first, then = self._asked
        repeated = number == first == signal.SIGTERM
        if not repeated or now - then > SECONDS_OF_A_REPEAT:
            progress.leave_line()
            # Without waiting for threads: they may be what hangs.
            os._exit(128 + number)
