"""The phases of a training, and how long each may take: for `train.timeout`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.runs.setup import Setup
from alexnet_jax.runtime.watchdog import Watchdog


# Of the process of that number; its own, since several may be stuck.
STACKS_FILE = "stacks-{}.txt"
COMPILING, STEP, DATA = "compiling", "computing a step", "reading a batch"
VALIDATION, SAVING = "validating", "saving"
# The second step is started when the first one has ended.
COMPILED_STEPS = 2
# `data.loading.prefetch` reports within so many times `data.timeout`.
READING = 2


class TrainingWatchdog(Watchdog):
    """Watches the phases of a run, in one process of it.

    Args:
      setup: of the run.
      workdir: gets the stacks.
    """

    def __init__(self, setup: Setup, workdir: Path) -> None:
        seconds, reading = setup.plan.timeout, READING * setup.pipeline.timeout
        least = None
        if seconds is not None:
            least = {
                COMPILING: 12 * seconds,
                STEP: seconds,
                DATA: reading + seconds,
                # Its batches are read while it waits for the one before.
                VALIDATION: reading + seconds,
                SAVING: 6 * seconds,
            }
        number = jax.process_index()
        stacks = workdir / STACKS_FILE.format(number)
        super().__init__(least, stacks=stacks, who=f"process {number}")
        self._steps = self._validations = 0

    def batches(self, batches: Iterator[HostBatch]) -> Iterator[HostBatch]:
        """The batches of training steps; what follows each is a step."""
        while True:
            self.enter(DATA)
            batch = next(batches, None)
            if batch is None:
                return
            self._steps += 1
            self.enter(STEP if self._steps > COMPILED_STEPS else COMPILING)
            yield batch

    def validates(self) -> None:
        """A validation begins, or the next of its batches."""
        self._validations += 1
        self.enter(VALIDATION if self._validations > 1 else COMPILING)

    def saves(self) -> None:
        """What follows is saving, or waits for it."""
        self.enter(SAVING)

    def checked(self, check: Callable[[], None]) -> Callable[[], None]:
        """What is called after every batch of a validation."""

        def run() -> None:
            self.validates()
            check()

        return run
