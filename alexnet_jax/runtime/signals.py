"""Ctrl-C and SIGTERM in a run: the signal is noted, the loop saves and then stops.

An exception raised in the middle of a step would leave the state donated to the device
and half-written files; so the loop asks between steps instead.
"""

import contextlib
import os
import signal
import threading
from types import FrameType

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import Interrupted


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Inside the block, `received` is the first signal's number, or None before it.

    A second signal ends the process at once, for users who don't want to wait.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._restore = contextlib.ExitStack()

    def check(self) -> None:
        """Raise Interrupted if a signal has come; for places with nothing to save."""
        if self.received is not None:
            raise Interrupted(self.received)

    def __enter__(self) -> "Interrupts":
        # Python handles signals in the main thread only, and refuses to set a handler
        # elsewhere; in a notebook's or test's thread the block does nothing.
        main = threading.current_thread() is threading.main_thread()
        for number in SIGNALS if main else ():
            before = signal.signal(number, self._handle)
            self._restore.callback(signal.signal, number, before)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            progress.leave_line()
            # Without waiting for threads: they may be what hangs.
            os._exit(128 + number)
        self.received = number
