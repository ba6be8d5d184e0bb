"""Many short runs in one process, on one device that holds the whole data set.

The images are read once, and a network's programs are compiled once for all its seeds.
The steps are those of `alexnet_jax.main`: a run has the bits of the command's run of
the same config and seed on one device. All that the host does in a step is to start it,
since what decides a batch lies on the device before the first one. `resumable.py` does
it in pieces, so that a run that is cut goes on.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, PyTree
from scipy.special import log_softmax, logsumexp

from alexnet_jax.data.loading import grain_datasets
from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.distributed import placement
from alexnet_jax.training import evaluation
from alexnet_jax.training import step as steps
from alexnet_jax.training.plan import Plan
from alexnet_jax.training.step import TrainState

from many_programs import Draws, Held, Program, statistics_of


# Of the ten views of `preprocess.cut_views`: the centre, not flipped.
CENTRE = 2
# Images in a batch of the evaluation, each with all its views.
EVALUATED = 128


class Errors(NamedTuple):
    """What a network makes of the validation images.

    Attributes:
      loss: cross-entropy of the probabilities averaged over the views.
      correct: whether an image's class has the highest probability; false where a
        probability is not a number.
      log_probabilities: of each class, averaged over the views as probabilities.
    """

    loss: float
    correct: Bool[np.ndarray, "examples"]
    log_probabilities: Float[np.ndarray, "examples classes"]

    @property
    def top1_error(self) -> float:
        """The fraction of images that are not correct."""
        return float(1 - self.correct.mean())


class Trained(NamedTuple):
    """A run so far.

    Attributes:
      state: of the training.
      losses: of each step, summed over its batch; zero where it is still to come.
      seconds: that the steps took.
    """

    state: TrainState
    losses: Float[np.ndarray, "steps"]
    seconds: float

    @property
    def step(self) -> int:
        """How many steps are done."""
        return int(jax.device_get(self.state.step))


class Result(NamedTuple):
    """A run at its end.

    Attributes:
      params: of the network.
      losses: the training loss of each epoch; the last one may be cut short.
      one: with the centre crop alone.
      ten: with the ten crops of section 4.1, five where images are not flipped.
      seconds: of training, and of evaluation.
      views: the crops of `ten`.
    """

    params: PyTree
    losses: list[float]
    one: Errors
    ten: Errors
    seconds: tuple[float, float]
    views: int


def compile_program(program: Program, on: Held) -> None:
    """Compile what a run needs, by a step and an evaluation whose results are dropped.

    May be called from another thread while a run goes on.
    """
    short = dataclasses.replace(program.plan, steps=1)
    run(dataclasses.replace(program, plan=short), on, 0, batches=1)


def run(program: Program, on: Held, seed: int, batches: int | None = None) -> Result:
    """Train with a seed, from the first step to the last, and evaluate.

    Args:
      program: what is trained, and how.
      on: the images.
      seed: of everything random.
      batches: how many of the validation images' are evaluated; None for all.
    """
    trained = train(program, on, seed, begin(program, seed), program.plan.steps)
    return evaluate(program, on, trained, batches)


def begin(program: Program, seed: int) -> Trained:
    """A run before its first step."""
    losses = np.zeros(program.plan.steps, np.float32)
    return Trained(program.initial(steps.root_key(seed)), losses, 0.0)


def train(
    program: Program, on: Held, seed: int, trained: Trained, until: int
) -> Trained:
    """Train from where a run stands to the step `until`, and wait for the device.

    The arrays of the state before are gone: the device has used their memory.
    """
    start = time.perf_counter()
    first, state = trained.step, trained.state
    draws = _draws(program, on, seed)
    numbers = jax.random.key_data(steps.root_key(seed))
    sums = []
    for _ in range(first, until):
        batch = on.cut(on.take(draws, state.step))
        state, metrics = program.step(numbers, state, batch, program.mean)
        sums.append(metrics["loss"])
    losses = trained.losses.copy()
    losses[first:until] = jax.device_get(sums)
    return Trained(state, losses, trained.seconds + time.perf_counter() - start)


def evaluate(
    program: Program,
    on: Held,
    trained: Trained,
    batches: int | None = None,
    after: Callable[[int], None] = lambda images: None,
) -> Result:
    """What a run has come to.

    Args:
      program: what was trained, and how.
      on: the images.
      trained: the run at its end.
      batches: how many of the validation images' are evaluated; None for all.
      after: called after every batch with how many images it had; may raise.
    """
    start = time.perf_counter()
    logits = _logits(program, on, trained.state.params, batches, after)
    labels = on.labels[: len(logits)]
    return Result(
        params=trained.state.params,
        losses=by_epoch(trained.losses, program.plan),
        one=errors(logits[:, CENTRE : CENTRE + 1], labels),
        ten=errors(logits, labels),
        seconds=(trained.seconds, time.perf_counter() - start),
        views=logits.shape[1],
    )


def _draws(program: Program, on: Held, seed: int) -> Draws:
    """What decides the batches of a run, on the device."""
    reading, of_run = program.pipeline, program.plan
    recipes = (reading.crop_area, *reading.recipes.values())
    drawn_by = (reading.crops, reading.flip, *recipes)
    key = (*drawn_by, of_run.batch_size, of_run.steps, seed)
    if key not in on.drawn:
        on.drawn[key] = _drawn(program, on.mesh, seed)
    return on.drawn[key]


def _drawn(program: Program, mesh: Mesh, seed: int) -> Draws:
    batches = grain_datasets.train_dataset(
        program.pipeline,
        statistics_of(program.pipeline),
        batch_size=program.plan.batch_size,
        seed=seed,
        held=True,
    )
    made = [_batch(batches, number) for number in range(program.plan.steps)]
    whole = {name: np.stack([batch[name] for batch in made]) for name in made[0]}
    return jax.device_put(whole, placement.replicated(mesh))


def _batch(batches: grain.MapDataset, number: int) -> HostBatch:
    batch = batches[number]
    # None is what a filter leaves out, and there is none.
    assert batch is not None
    return batch


def by_epoch(sums: Float[np.ndarray, "steps"], plan: Plan) -> list[float]:
    """The mean loss of each epoch, from each step's sum over its batch."""
    epochs = [plan.epochs(step) for step in range(len(sums))]
    means = np.asarray(sums, np.float64) / plan.batch_size
    counts = np.bincount(epochs)
    return (np.bincount(epochs, means) / counts).tolist()


def _logits(
    program: Program,
    on: Held,
    params: PyTree,
    batches: int | None,
    after: Callable[[int], None],
) -> Float[np.ndarray, "examples views classes"]:
    places = grain_datasets.evaluation_dataset(
        program.pipeline, "validation", batch_size=EVALUATED, held=True
    )
    count = min(len(places), batches or len(places))
    of_batches = (_batch(places, number) for number in range(count))

    def run(batch: steps.Batch) -> evaluation.Results:
        return {"logits": program.evaluate(params, on.whole(batch), program.mean)[1]}

    computed = []
    for _, found in evaluation.over_batches(run, of_batches, on.mesh):
        computed.append(found["logits"])
        after(len(found["logits"]))
    return np.concatenate(computed)


def errors(
    logits: Float[np.ndarray, "examples views classes"],
    labels: Int[np.ndarray, "examples"],
) -> Errors:
    """Loss and correctness of the probabilities averaged over views."""
    each = log_softmax(logits.astype(np.float64), axis=-1)
    mean = logsumexp(each, axis=1) - np.log(logits.shape[1])
    own = np.take_along_axis(mean, labels[:, None], axis=1)[:, 0]
    found = np.isfinite(mean).all(axis=1) & (mean.argmax(axis=1) == labels)
    return Errors(float(-own.mean()), found, mean)
