"""Ends a process that is stuck, since what hangs raises nothing: a device, or a
collective that waits for a process which hangs."""

import collections
import faulthandler
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from alexnet_jax.runtime import patience, progress


# A phase is stuck when it takes so many times as long as the slowest of the last ones.
FACTOR, REMEMBERED = 20, 100
LONGEST_TICK = 1.0
# How long a folder may take that the stacks are written to: its drive may be stuck too.
SECONDS_TO_WRITE = 10.0


class Watchdog:
    """Inside the block, a phase that takes far too long ends the process.

    The stacks of all threads are written to a file, one line says so, and the exit
    status is 1. Time in which this process was stopped (Ctrl-Z), or waited for a drive
    that is away, does not count. Until the first phase is entered nothing is watched.

    Args:
      least: the limit of each phase in seconds, by name. It is longer where the run's
        own phases of that name took long. None watches nothing.
      stacks: the file that gets them.
      who: names this process.
    """

    def __init__(
        self, least: Mapping[str, float] | None, *, stacks: Path, who: str
    ) -> None:
        self._least, self._stacks, self._who = least or {}, stacks, who
        self._tick = min([LONGEST_TICK, *(s / 10 for s in self._least.values())])
        self._took: dict[str, collections.deque[float]] = {
            phase: collections.deque(maxlen=REMEMBERED) for phase in self._least
        }
        self._phase: str | None = None
        self._begin = time.monotonic()
        # How many phases were entered, and for how long the last has been watched.
        self._entered, self._seconds = 0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._least:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._least:
            self._thread.join()

    def enter(self, phase: str) -> None:
        """Begin a phase, also one of the same name again; the one before has ended."""
        if not self._least:
            return
        now = time.monotonic()
        if self._phase is not None:
            watched = self._seconds + 2 * self._tick
            self._took[self._phase].append(min(now - self._begin, watched))
        # First the number, so that no phase has the seconds of the one before.
        self._entered += 1
        self._phase, self._begin = phase, now

    def limit(self, phase: str) -> float:
        """How many seconds a phase may take now."""
        return max(self._least[phase], FACTOR * max(self._took[phase], default=0.0))

    def _watch(self) -> None:
        seen, seconds = 0, 0.0
        # Counted by ticks: while the process is stopped, none passes.
        while not self._over.wait(self._tick):
            phase = self._phase
            if seen != self._entered:
                seen, seconds = self._entered, 0.0
            elif not patience.is_waiting():
                seconds += self._tick
            self._seconds = seconds
            if phase is not None and seconds > self.limit(phase):
                self._end(phase, seconds)

    def _end(self, phase: str, seconds: float) -> None:
        try:
            self._report(phase, seconds)
        finally:
            # Not sys.exit: the main thread is what hangs.
            os._exit(1)

    def _report(self, phase: str, seconds: float) -> None:
        def elsewhere() -> Path:
            return Path(tempfile.mkdtemp(prefix="alexnet_jax_"), self._stacks.name)

        written = _in_time(lambda: self._stacks) or _in_time(elsewhere)
        found = f"; the stacks of all threads are in {written}" if written else ""
        progress.leave_line()
        progress.complain(
            f"{self._who}: stuck for {seconds:.0f} s while {phase}, which took "
            f"{max(self._took[phase], default=0.0):.3g} s at most before{found}; a "
            "device, a disk or another process hangs: give the same command again (of "
            "several processes to all), and the run continues from its latest "
            "checkpoint"
        )


def _in_time(place: Callable[[], Path]) -> Path | None:
    """Write all threads' stacks to a file; None where its drive doesn't take it."""
    written: list[Path] = []

    def write() -> None:
        with suppress(OSError):
            path = place()
            with path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            written.append(path)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_WRITE)
    return written[0] if written else None
