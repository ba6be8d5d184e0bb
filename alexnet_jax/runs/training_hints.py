"""What a run says of its steps while it trains: of the wait for data, of the loss."""

import math
from collections import deque
from collections.abc import Iterable

import numpy as np

from alexnet_jax.runtime import progress
from alexnet_jax.training import spikes


# Steps before the wait for data means anything, and over which it is averaged.
STEPS_OF_THE_START = 10
STEPS_BEFORE_A_HINT = 100
INPUT_WAIT_WORTH_A_HINT = 0.1
SPIKES_SHOWN = 10
# The steps over which a loss should fall; their first and last tenth are compared.
FIRST_STEPS = 100
# A larger quotient is no noise of single batches.
RISE_WORTH_A_WARNING = 1.1


class InputWait:
    """Says once if the devices wait for the data.

    Args:
      advice: what to do then.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._waits: deque[tuple[float, float]] = deque(maxlen=STEPS_BEFORE_A_HINT)
        self._steps = 0
        self._hinted = False

    def add(self, waited: float, seconds: float) -> None:
        """Count a step that took so long, so much of it waiting."""
        self._steps += 1
        if self._steps > STEPS_OF_THE_START:
            self._waits.append((waited, seconds))
        if self._hinted or len(self._waits) < STEPS_BEFORE_A_HINT:
            return
        total = sum(seconds for _, seconds in self._waits)
        fraction = sum(waited for waited, _ in self._waits) / total
        if fraction > INPUT_WAIT_WORTH_A_HINT:
            self._hinted = True
            progress.say(
                f"hint: {fraction:.0%} of the time is spent waiting for the data; "
                f"{self._advice}"
            )


class LossRise:
    """Warns once if the loss rises over a run's first steps."""

    def __init__(self) -> None:
        self._losses: list[float] = []

    def add(self, step: int, loss: float, learning_rate: float) -> None:
        """Count a step's loss; all from the first are needed."""
        if step != len(self._losses) + 1 or step > FIRST_STEPS:
            return
        self._losses.append(loss)
        if step < FIRST_STEPS:
            return
        some = FIRST_STEPS // 10
        first = sum(self._losses[:some]) / some
        last = sum(self._losses[-some:]) / some
        if last > RISE_WORTH_A_WARNING * first:
            progress.say(
                f"warning: the loss rose from {first:.3g} to {last:.3g} over the first "
                f"{FIRST_STEPS} steps, at a learning rate of {learning_rate:g}; set a "
                "lower --config.schedule.learning_rate, with another --workdir"
            )


class LossSpikes:
    """Finds steps whose loss is far above that of the steps before; see
    `training.spikes`.

    Args:
      losses: of the last steps before the first that is added, oldest first.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._losses = deque([math.inf] * spikes.BEFORE, maxlen=spikes.BEFORE)
        self._losses.extend(losses)
        self._said = 0

    def add(self, step: int, loss: float, skipped: float | None = None) -> float | None:
        """Count a step's loss; returns how many times the median of the steps before it
        is, where that is a spike, and says so for the first ones.

        Args:
          step: of the run.
          loss: of the step.
          skipped: where spikes are skipped, what the devices have found: that factor,
            or 0.
        """
        factor = skipped
        if factor is None:
            before = np.asarray(self._losses)
            factor = float(spikes.spike_factor(before, np.asarray(loss), np))
        self._losses.append(loss)
        if not factor:
            return None
        self._said += 1
        if self._said <= SPIKES_SHOWN:
            last = self._said == SPIKES_SHOWN
            done = "" if skipped is None else "; the step is skipped"
            more = "; later ones are only in metrics.jsonl" if last else ""
            progress.say(
                f"step {step}: the loss rose to {loss:.3g}, {factor:.1f} times the "
                f"median of the last {spikes.BEFORE} steps{done}{more}"
            )
        return factor
