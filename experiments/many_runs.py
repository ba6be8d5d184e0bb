"""Many short runs in one process, on one device that holds the whole data set.

The images are read once, and a network's programs are compiled once for all its seeds.
The steps are those of `alexnet_jax.main`: a run has the bits of the command's run of
the same config and seed on one device. All that the host does in a step is to start it,
since what decides a batch lies on the device before the first one. Nothing is saved: a
run that is cut is repeated.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int, PyTree
from scipy.special import log_softmax, logsumexp

from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.statistics import Statistics, mean_crop
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import placement
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import holding
from alexnet_jax.runs.config import Config, plain, section
from alexnet_jax.runs.setup import optimizer_of, schedule_of
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import compilation, held, plan
from alexnet_jax.training import step as steps
from alexnet_jax.training.held import Cut
from alexnet_jax.training.plan import Plan
from alexnet_jax.training.step import TrainState


# Of the ten views of `preprocess.cut_views`: the centre, not flipped.
CENTRE = 2
# Images in a batch of the evaluation, each with all its views.
EVALUATED = 128

# What is drawn for a run, on the device: a row a step.
Draws = Mapping[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """A data set on the device.

    Attributes:
      mesh: of that device alone.
      cut: from what is drawn for a step to a training batch.
      whole: from places to an evaluation batch.
      labels: of the validation images, on the host.
      take: from a run's draws and a step's number to what is drawn for it.
      drawn: the draws of the runs so far, which others share.
    """

    mesh: Mesh
    cut: Cut
    whole: Cut
    labels: Int[np.ndarray, "examples"]
    take: Callable[[Draws, Array], dict[str, Array]]
    drawn: dict[object, Draws] = dataclasses.field(default_factory=dict)


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


class Result(NamedTuple):
    """A run at its end.

    Attributes:
      params: of the network.
      losses: the training loss of each epoch; the last one may be cut short.
      one: with the centre crop alone.
      ten: with the ten crops of section 4.1, five where images are not flipped.
      seconds: of training, and of evaluation.
    """

    params: PyTree
    losses: list[float]
    one: Errors
    ten: Errors
    seconds: tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A network and how it is trained, compiled once for all seeds."""

    pipeline: Pipeline
    plan: Plan
    initial: Callable[[Array], TrainState]
    step: Callable[..., tuple[TrainState, dict[str, Array]]]
    evaluate: Callable[..., tuple[dict[str, Array], Array]]
    mean: Array


def hold(pipeline: Pipeline) -> Held:
    """Read the training and the validation images onto the first device."""
    mesh = meshes.one_device()
    train, validation = (
        holding.hold(pipeline, split, mesh, check=lambda: None)
        for split in ("train", "validation")
    )
    examples = len(pipeline.dataset.splits["validation"])
    return Held(
        mesh,
        held.make_train_cut(train, mesh, crop=pipeline.crop),
        held.make_evaluation_cut(validation, mesh),
        jax.device_get(validation.label)[:examples],
        jax.jit(
            lambda draws, step: {name: rows[step] for name, rows in draws.items()},
            out_shardings=NamedSharding(mesh, meshes.EXAMPLES),
        ),
    )


def make_program(config: Config, pipeline: Pipeline, mesh: Mesh) -> Program:
    """The programs of a config for the data set of a pipeline; how it is read, such as
    the crop, is the config's.

    Raises:
      InputError: if a value is out of range, or the data set is not a prepared one.
    """
    settings = plain(config)
    reading = pipelines.reading(section(settings, "data"))
    pipeline = Pipeline(pipeline.dataset, **reading)
    dataset = pipeline.dataset
    examples = len(dataset.splits["train"])
    of_run = plan.make_plan(examples=examples, **section(settings, "train"))
    classes = len(dataset.class_names)
    model = AlexNet(num_classes=classes, **section(settings, "model"))
    model.check_size(pipeline.crop, pipeline.crop)
    schedule = schedule_of(section(settings, "schedule"), of_run, model)
    optimizer = optimizer_of(section(settings, "optimizer"), of_run, schedule)
    of_key = steps.train_step(model, optimizer, schedule, mesh, of_run.label_smoothing)

    def step(
        root: Array, state: TrainState, batch: steps.Batch, mean: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        # A jitted function is called fastest with arrays of plain numbers.
        key = jax.random.wrap_key_data(root, impl="threefry2x32")
        return of_key(key, state, batch, mean)

    mean = mean_crop(_statistics(pipeline), pipeline.crop)
    return Program(
        pipeline=pipeline,
        plan=of_run,
        initial=steps.make_initial(model, optimizer, mesh, pipeline.crop),
        step=jax.jit(
            step,
            donate_argnums=1,
            compiler_options=dict(compilation.of_program(mesh)),
        ),
        evaluate=steps.make_eval_step(
            model, mesh, crop=pipeline.crop, views=10, mirrors=pipeline.flip
        ),
        mean=jax.device_put(mean, placement.replicated(mesh)),
    )


def _statistics(pipeline: Pipeline) -> Statistics:
    found = pipeline.dataset.statistics
    if found is None:
        raise InputError(
            "mean image and colours of these images are not known; prepare them with "
            "`python -m alexnet_jax.prepare`, and give what it writes"
        )
    if pipeline.subtract_mean:
        return found
    return dataclasses.replace(found, mean=np.zeros_like(found.mean))


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
    begin = time.perf_counter()
    draws, root = _draws(program, on, seed), steps.root_key(seed)
    state, numbers = program.initial(root), jax.random.key_data(root)
    sums = []
    for _ in range(program.plan.steps):
        batch = on.cut(on.take(draws, state.step))
        state, metrics = program.step(numbers, state, batch, program.mean)
        sums.append(metrics["loss"])
    losses = by_epoch(jax.device_get(sums), program.plan)
    trained = time.perf_counter()
    logits = _logits(program, on, state.params, batches)
    labels = on.labels[: len(logits)]
    return Result(
        params=state.params,
        losses=losses,
        one=errors(logits[:, CENTRE : CENTRE + 1], labels),
        ten=errors(logits, labels),
        seconds=(trained - begin, time.perf_counter() - trained),
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
    batches = pipelines.train_dataset(
        program.pipeline,
        _statistics(program.pipeline),
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


def by_epoch(sums: Sequence[np.ndarray], plan: Plan) -> list[float]:
    """The mean loss of each epoch, from each step's sum over its batch."""
    epochs = [plan.epochs(step) for step in range(len(sums))]
    means = np.asarray(sums, np.float64) / plan.batch_size
    counts = np.bincount(epochs)
    return (np.bincount(epochs, means) / counts).tolist()


def _logits(
    program: Program, on: Held, params: PyTree, batches: int | None
) -> Float[np.ndarray, "examples views classes"]:
    places = pipelines.evaluation_dataset(
        program.pipeline, "validation", batch_size=EVALUATED, held=True
    )
    computed = []
    for number in range(min(len(places), batches or len(places))):
        batch = on.whole(placement.to_devices(_batch(places, number), on.mesh))
        computed.append(program.evaluate(params, batch, program.mean)[1])
    return np.concatenate(jax.device_get(computed))[: len(on.labels)]


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
