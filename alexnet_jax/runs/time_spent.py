"""Where the time of a run goes: over all its starts, however each of them ended."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np


COMPILING, STEPS, DATA = "compiling", "steps", "waiting for data"
VALIDATING, SAVING, LOST = "validating", "saving", "lost to restarts"
KINDS = (COMPILING, STEPS, DATA, VALIDATING, SAVING, LOST)
# Of one of several processes, by its index.
DATA_OF_PROCESS = DATA + ", process {}"
# Of a start in run.json.
SECONDS, STEP_SECONDS = "seconds", "step_seconds"
PERCENTILES = {"median": 50.0, "90 %": 90.0, "99 %": 99.0}


class TimeSpent:
    """Adds up the seconds of one start of a run, from now on, by kind.

    Those of steps are what is left over; `LOST` is time of an earlier start, in steps
    that it computed and did not save.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)

    def add(self, kind: str, seconds: float) -> None:
        """Count so many seconds."""
        self._seconds[kind] += seconds

    @contextmanager
    def counted(self, kind: str) -> Iterator[None]:
        """Count the seconds of a block."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.add(kind, time.monotonic() - begin)

    def compiled(self) -> None:
        """Count what has passed until now, and is not counted, as compiling."""
        self.add(COMPILING, self._left_over())

    def seconds(self) -> dict[str, float]:
        """The seconds until now, of every kind."""
        found = {**self._seconds, STEPS: self._left_over()}
        return {kind: round(seconds, 3) for kind, seconds in found.items()}

    def _left_over(self) -> float:
        counted = sum(s for kind, s in self._seconds.items() if kind != LOST)
        return max(0.0, time.monotonic() - self._begin - counted)


def percentiles(step_seconds: Sequence[float] | np.ndarray) -> dict[str, float]:
    """The percentiles of the seconds that steps took; empty without a step."""
    if not len(step_seconds):
        return {}
    found = np.percentile(step_seconds, list(PERCENTILES.values())).tolist()
    return dict(zip(PERCENTILES, found, strict=True))


def total(starts: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """The seconds of all starts of a run, as run.json has them, by kind; empty where
    none of them has noted any, as a start of an older version."""
    noted = [seconds for start in starts if (seconds := _numbers(start, SECONDS))]
    return {k: sum(n.get(k, 0.0) for n in noted) for k in KINDS} if noted else {}


def latest_percentiles(starts: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """The percentiles that the last start of a run has noted, of all its steps."""
    noted = [steps for start in starts if (steps := _numbers(start, STEP_SECONDS))]
    return noted[-1] if noted else {}


def _numbers(start: Mapping[str, object], key: str) -> dict[str, float]:
    """The numbers that a start has under a key; none where something else is there."""
    noted = start.get(key)
    items = noted.items() if isinstance(noted, Mapping) else ()
    return {str(k): float(v) for k, v in items if isinstance(v, int | float)}


def of_processes(waits: Sequence[float]) -> dict[str, float]:
    """How long each of several processes waited for its data, to be noted beside the
    kinds; nothing of a process that is alone."""
    named = {DATA_OF_PROCESS.format(n): round(s, 3) for n, s in enumerate(waits)}
    return named if len(waits) > 1 else {}


def slowest(starts: Sequence[Mapping[str, object]]) -> str:
    """Which of several processes the others waited for most, over all starts that have
    as many as the last; empty for one that is alone.

    What a process does on its host can hold up the others, and of that the wait for
    its data is all that takes long.
    """
    noted = [
        [s for kind, s in _numbers(start, SECONDS).items() if kind not in KINDS]
        for start in starts
    ]
    of_last = [waits for waits in noted if len(waits) == len(noted[-1])]
    waited = np.sum(of_last, axis=0).tolist() if of_last else []
    if not waited:
        return ""
    most, number = max((seconds, n) for n, seconds in enumerate(waited))
    others = max(seconds for n, seconds in enumerate(waited) if n != number)
    return (
        f"of {len(waited)} processes number {number} was the slowest: "
        f"{shown(most)} waiting for data, the others at most {shown(others)}"
    )


def line(starts: Sequence[Mapping[str, object]]) -> str:
    """Where the time went, for the end of a run; empty where no start has noted it."""
    seconds, steps = total(starts), latest_percentiles(starts)
    if not seconds:
        return ""
    parts = ", ".join(f"{shown(seconds[kind])} {kind}" for kind in KINDS)
    times = ", ".join(f"{shown(value)} ({name})" for name, value in steps.items())
    over = f" over {len(starts)} starts" if len(starts) > 1 else ""
    late = slowest(starts)
    return (
        f"time{over}: {parts}{times and f'; a step took {times}'}{late and f'; {late}'}"
    )


def shown(seconds: float) -> str:
    """`0.012 s`, `4.2 s`, `35 min`, `2.5 h`."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.1f} s" if seconds >= 1 or not seconds else f"{seconds:.2g} s"
