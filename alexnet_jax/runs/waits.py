"""How long the devices of a run wait, and for what."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


DATA, VALIDATION, SAVING = "data", "validation", "saving"


class Waits:
    """Adds up what keeps the devices from training, from now on."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._seconds: dict[str, float] = {DATA: 0.0, VALIDATION: 0.0, SAVING: 0.0}

    def add(self, what: str, seconds: float) -> None:
        """Count so many seconds."""
        self._seconds[what] += seconds

    @contextmanager
    def counted(self, what: str) -> Iterator[None]:
        """Count the seconds of a block."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.add(what, time.monotonic() - begin)

    def line(self) -> str:
        """All of it, for the end of a run."""
        total = time.monotonic() - self._begin
        trained = max(0.0, total - sum(self._seconds.values()))
        waits = ", ".join(f"{s:.1f} s for {what}" for what, s in self._seconds.items())
        return (
            f"the devices trained for {trained:.1f} s of {total:.1f} s, and waited "
            f"{waits}"
        )
