"""When a run saves by the clock, and when it stops after a signal: in all processes
after the same step."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from jax.sharding import Mesh

from alexnet_jax.distributed.consensus import Agreement
from alexnet_jax.distributed.multihost import is_main
from alexnet_jax.runtime.signals import Interrupts


class Asked(NamedTuple):
    """What is asked for after a step, in every process.

    Attributes:
      stop: the number of a signal that asks all processes to stop; 0 for none.
      save: whether it is time for a checkpoint.
    """

    stop: int
    save: bool


class Requests:
    """Asks to stop after a signal, and to save `minutes` after the last checkpoint.

    The main process's clock counts: each process's own would ask at another step.

    Args:
      mesh: whose processes agree.
      interrupts: the signals of this process.
      minutes: between checkpoints; None for no checkpoint by time.
      clock: seconds that only grow.
    """

    def __init__(
        self,
        mesh: Mesh,
        interrupts: Interrupts,
        minutes: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agreement = Agreement(mesh)
        self._interrupts = interrupts
        self._seconds = 60 * minutes if minutes is not None and is_main() else math.inf
        self._clock = clock
        self._due = math.inf
        self.saved()

    def saved(self) -> None:
        """A checkpoint was saved; the minutes begin again."""
        self._due = self._clock() + self._seconds

    def asked(self) -> Asked:
        """What all processes do after this step; to be called once a step.

        Where there are several, they learn of it a step later.
        """
        due = self._clock() >= self._due
        if due:
            # Asked for once, although it is saved only when all processes know.
            self.saved()
        # The largest number counts. One is a save, and a signal, which saves as well,
        # is larger.
        number = self._agreement.largest(2 * (self._interrupts.received or 0) + due)
        return Asked(stop=number // 2, save=number > 0)
