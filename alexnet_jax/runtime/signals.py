"""Ctrl-C and SIGTERM: note the signal, let the loop save, then leave."""

import os
import signal
import threading
from types import FrameType, TracebackType

from alexnet_jax.runtime.errors import Interrupted


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Inside the block, `received` is the first signal's number, or None.

    A second signal ends the process at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def check(self) -> None:
        """Raise Interrupted if a signal has come, where there is nothing to save."""
        if self.received is not None:
            raise Interrupted(self.received)

    def __enter__(self) -> "Interrupts":
        # Python delivers signals to the main thread alone.
        main = threading.current_thread() is threading.main_thread()
        for number in SIGNALS if main else ():
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
