"""What many runs on one device share: the images that it holds, and compiled programs.

`many_runs.py` trains with them.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int

from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.data.loading.later_recipes import check_pairs
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.statistics import Statistics, mean_crop
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import placement
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import holding
from alexnet_jax.runs.config import Config, Sections, completed, plain, section
from alexnet_jax.runs.setup import optimizer_of, schedule_of
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import compilation, held, plan
from alexnet_jax.training import step as steps
from alexnet_jax.training.held import Cut
from alexnet_jax.training.plan import Plan
from alexnet_jax.training.step import TrainState


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
    check_trained_here(completed(settings))
    if pipeline.mixup or pipeline.cutmix:
        check_pairs(of_run.batch_size, 1, "train.batch_size")
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

    mean = mean_crop(statistics_of(pipeline), pipeline.crop)
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


def check_trained_here(config: Sections) -> None:
    """Raise an InputError if a config asks for what the command alone does."""
    if config["schedule"]["kind"] == "plateau":
        raise InputError(
            "schedule.kind=plateau drops the rate by validations, and a run here has "
            "one, at its end; give --config.schedule.kind=steps or cosine"
        )
    if config["train"]["init_from"] is not None:
        raise InputError(
            "train.init_from: runs here begin with initial values; fine-tune with "
            "`python -m alexnet_jax.main`"
        )


def statistics_of(pipeline: Pipeline) -> Statistics:
    found = pipeline.dataset.statistics
    if found is None:
        raise InputError(
            "mean image and colours of these images are not known; prepare them with "
            "`python -m alexnet_jax.prepare`, and give what it writes"
        )
    if pipeline.subtract_mean:
        return found
    return dataclasses.replace(found, mean=np.zeros_like(found.mean))
