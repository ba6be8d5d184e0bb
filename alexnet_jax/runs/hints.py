"""What a run says of itself at its start, and what it advises while it trains."""

from collections import deque
from pathlib import Path

import jax

from alexnet_jax.data.dataset import Source
from alexnet_jax.data.encoded import EncodedSource
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.prepared.record import PreparedSource
from alexnet_jax.data.selection import ReplacingSource, SelectedSource
from alexnet_jax.data.sources.randomized import CorruptedSource
from alexnet_jax.runs.setup import Setup
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.progress import counting
from alexnet_jax.training.plan import Plan


# Steps before the wait for data means anything, and over which it is averaged.
STEPS_OF_THE_START = 10
STEPS_BEFORE_A_HINT = 100
INPUT_WAIT_WORTH_A_HINT = 0.1
# The steps over which a loss should fall; their first and last tenth are compared.
FIRST_STEPS = 100
# A larger quotient is no noise of single batches.
RISE_WORTH_A_WARNING = 1.1


def opening_line(setup: Setup, workdir: Path) -> str:
    """What is trained, on what, how long, and where the run goes, in one line."""
    dataset, plan, mesh = setup.pipeline.dataset, setup.plan, setup.mesh
    held_out = len(dataset.splits.get("validation", ()))
    classes = counting(len(dataset.class_names), "class", "classes")
    parameters = sum(p.size for p in jax.tree.leaves(setup.steps.abstract.params))
    kind = mesh.devices.flat[0].platform.upper()
    devices = counting(mesh.devices.size, f"{kind} device")
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return (
        f"{plan.examples:,} training and {counting(held_out, 'validation image')} of "
        f"{classes}, {counting(parameters, 'parameter')}, batch {plan.batch_size}, "
        f"{counting(plan.steps, 'step')} on {devices} ({axes}), into {workdir}"
    )


def warnings(plan: Plan) -> list[str]:
    """What in a plan hardly anybody wants, and what to set instead."""
    found = []
    if plan.batch_size > plan.examples:
        found.append(
            f"train.batch_size={plan.batch_size} is more than the "
            f"{counting(plan.examples, 'training image')}, so that a batch repeats "
            f"images; set --config.train.batch_size={plan.examples} or less"
        )
    every_step = plan.validate_steps is None and plan.batch_size >= plan.examples
    if every_step and plan.steps > 1:
        found.append(
            "an epoch is one step, so that every step is followed by a validation; set "
            "--config.train.validate_steps=100, or as you like"
        )
    return [f"warning: {text}" for text in found]


def slow_reading(setup: Setup) -> list[str]:
    """What to do first about data that are slow to read at random, as training does."""
    source = _source(setup.pipeline)
    if not isinstance(source, EncodedSource) or not source.recommends_preparing:
        return []
    data = setup.config["data"]
    return [
        f"hint: {data['source']} is slow to read at random; prepare it once, with "
        f"`python -m alexnet_jax.prepare --source={data['source']} "
        f"--input={data.get('path')} --output=DIR`, and train with "
        "--config.data.source=prepared --config.data.path=DIR"
    ]


def _source(pipeline: Pipeline) -> Source:
    """The source of the training images, without what is laid over it."""
    source = pipeline.dataset.splits["train"]
    while isinstance(source, CorruptedSource | ReplacingSource | SelectedSource):
        source = source.source
    return source


def faster_reading(pipeline: Pipeline) -> str:
    """What to do where the devices wait for these data."""
    source = _source(pipeline)
    if isinstance(source, EncodedSource):
        return "prepare them with `python -m alexnet_jax.prepare`"
    if isinstance(source, PreparedSource) and source.encoding != "raw":
        return "prepare them with --encoding=raw, or use a machine with more cores"
    return "use a machine with more cores, or a faster disk"


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
