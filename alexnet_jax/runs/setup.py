"""A run, set up: everything that the training loop takes, built once from a config."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import flax.linen as nn
import optax
from jax.sharding import Mesh

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.data.loading.later_recipes import check_pairs
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.distributed import consensus
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import determinism, holding, pretrained, recipes
from alexnet_jax.runs.config import (
    SECTIONS,
    Arguments,
    Config,
    Sections,
    check,
    check_set,
    parameters,
    plain,
    section,
)
from alexnet_jax.runs.determinism import Determinism
from alexnet_jax.runs.fetching import open_mirror
from alexnet_jax.runs.run_data import pretrained_mean
from alexnet_jax.runs.unreadable_images import open_readable
from alexnet_jax.runs.validation import make_validation
from alexnet_jax.runs.workdir import AUTOTUNING, has_checkpoints
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.paths import local
from alexnet_jax.runtime.store import Store
from alexnet_jax.training import plan as plans
from alexnet_jax.training.held import HeldSplit
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.plan import Plan
from alexnet_jax.training.schedule import Schedule, make_schedule
from alexnet_jax.training.spikes import skipping_spikes
from alexnet_jax.training.step import Steps, make_steps


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """What a run trains, on what, and how.

    Attributes:
      config: the sections that it was built from, as plain dictionaries, with what a
        recipe has set.
      mesh: the devices.
      pipeline: the data and how they are read.
      model: the network.
      steps: the functions that the training loop calls.
      plan: batch size, seed, length, when it validates and saves.
      validate: measures the errors of a state on the validation set; takes the state,
        the mean image, and a function that is called after every batch and may raise;
        where `held` names the split, also the function that cuts its batches.
      checkpoint: how many checkpoints are kept.
      enough: asked after every validation with the work directory whether the run ends
        here; experiments train until a network has learned.
      mirror: where what is saved is copied to; None in all processes but the main one.
      held: the splits that this process's devices hold, and their images where these
        are there already.
      determinism: how the steps are compiled, so that they give the same bits again.
      recipe: what `train.recipe` has set and why, in words.
    """

    config: Sections
    mesh: Mesh
    pipeline: Pipeline
    model: nn.Module
    steps: Steps
    plan: Plan
    validate: Callable[..., dict[str, float]]
    checkpoint: Mapping[str, int]
    enough: Callable[[Path], bool] = lambda workdir: False
    mirror: Store | None = None
    held: Mapping[str, HeldSplit | None] = dataclasses.field(default_factory=dict)
    determinism: Determinism = dataclasses.field(default_factory=Determinism)
    recipe: str = ""


def build_setup(
    config: Config,
    dataset: Dataset | None = None,
    enough: Callable[[Path], bool] = lambda workdir: False,
    workdir: Path | None = None,
    mirror: str | None = None,
) -> Setup:
    """The set-up of a run. Opens the devices and the data.

    Args:
      config: the sections of `runs.config.SECTIONS`.
      dataset: a data set that is open already, such as one in memory; else the one that
        the section `data` names.
      enough: see `Setup`.
      workdir: of the run, where it is decided which images are left out; without it all
        must be readable.
      mirror: an address, as `gs://bucket/run`, where what is saved in the work
        directory is copied to, and fetched from if that has nothing.

    Raises:
      InputError: if something in the config or the data is wrong.
    """
    settings: Sections = {**{name: {} for name in SECTIONS}, **plain(config)}
    check(settings)
    recipes.check(settings)
    network = section(settings, "model")
    # The platform is chosen with the mesh, so nothing may ask for a device before.
    towers = network.get("towers", AlexNet.towers)
    mesh = meshes.open_mesh(towers=towers, **section(settings, "mesh"))
    # A process that has no part in it is refused before anything is read.
    meshes.data_share(mesh)
    pipeline = _open_data(section(settings, "data"), dataset)
    images = len(pipeline.dataset.splits["train"])
    settings, recipe = recipes.completed(settings, images)
    check_set(settings)
    training = section(settings, "train")
    # What does not fit is refused now, before all images are read.
    held = {
        split: holding.Collected(pipeline, split, mesh)
        for split in holding.choose(pipeline, mesh)
    }
    store = None
    if workdir is not None:
        store = _open_store(mirror, workdir, settings)
    start = training.get("init_from")
    # A run that goes on needs it no more, and it may be gone.
    if start is not None and (workdir is None or not has_checkpoints(workdir)):
        # The name of imported weights may stand for their work directory.
        begin = pretrained.found(local(start, "train.init_from"))
        training["init_from"] = str(begin)
        if workdir is not None:
            pretrained_mean(pipeline, begin)
    if workdir is not None:
        takers = {split: collected.take for split, collected in held.items()}
        pipeline = open_readable(workdir, pipeline, takers)
    dataset = pipeline.dataset
    examples = len(dataset.splits["train"])
    plan = plans.make_plan(examples=examples, **training)
    meshes.check_batch(plan.batch_size, mesh.shape["data"], "train.batch_size")
    if pipeline.mixup or pipeline.cutmix:
        check_pairs(plan.batch_size, mesh.shape["data"], "train.batch_size")
    model = AlexNet(num_classes=len(dataset.class_names), **network)
    model.check_size(pipeline.crop, pipeline.crop)
    schedule = schedule_of(section(settings, "schedule"), plan, model)
    optimizer = optimizer_of(section(settings, "optimizer"), plan, schedule)
    kept = None if workdir is None else workdir / AUTOTUNING
    compiled = determinism.of_run(plan.deterministic, mesh, kept)
    if plan.check_every and not compiled.repeats:
        raise InputError(
            "train.check_every compares the bytes of a step that is computed twice, "
            "and this GPU may add in another order each time; set "
            "train.deterministic=true, or leave train.check_every out"
        )
    validate = make_validation(
        model=model,
        mesh=mesh,
        pipeline=pipeline,
        compiler_options=compiled.options,
        **section(settings, "eval"),
    )
    return Setup(
        config=settings,
        mesh=mesh,
        pipeline=pipeline,
        model=model,
        steps=make_steps(
            model,
            optimizer,
            schedule,
            mesh,
            size=pipeline.crop,
            seed=plan.seed,
            label_smoothing=plan.label_smoothing,
            compiler_options=compiled.options,
        ),
        plan=plan,
        validate=lambda state, *given: validate(state.params, *given),
        checkpoint=section(settings, "checkpoint"),
        enough=enough,
        mirror=store,
        held={split: collected.whole() for split, collected in held.items()},
        determinism=compiled,
        recipe=recipe,
    )


def _open_store(mirror: str | None, workdir: Path, settings: Sections) -> Store | None:
    """The mirror in the main process, after fetching what an empty directory lacks."""
    stores: list[Store] = []
    if mirror is not None:
        address = mirror
        consensus.in_main(
            lambda: stores.append(open_mirror(address, workdir, settings))
        )
    return next(iter(stores), None)


def _open_data(reading: Arguments, dataset: Dataset | None) -> Pipeline:
    """The data of the section `data`, or those given, read as it says."""
    if dataset is not None:
        return pipelines.Pipeline(dataset, **pipelines.reading(reading))
    pipeline = pipelines.open_pipeline(**reading)
    _check_size(reading, pipeline.dataset.size)
    return pipeline


def schedule_of(changing: Arguments, plan: Plan, model: AlexNet) -> Schedule:
    """The schedule of the section `schedule`, in which the layers that a plan freezes
    have no rate.

    Raises:
      InputError: if it freezes a layer that there isn't, or a value is out of range.
    """
    changing = dict(changing)
    rates = changing.pop("layer_rates", None) or {}
    rates = {**rates, **_frozen_rates(plan.freeze, model)}
    return make_schedule(
        steps_per_epoch=plan.steps_per_epoch,
        batch_size=plan.batch_size,
        steps=plan.steps,
        layer_rates=rates,
        **changing,
    )


def optimizer_of(
    changing: Arguments, plan: Plan, schedule: Schedule
) -> optax.GradientTransformation:
    """The update rule of the section `optimizer`, which skips what a plan skips.

    Raises:
      InputError: if a value is out of range.
    """
    rule = momentum_sgd(schedule, **changing)
    return skipping_spikes(rule) if plan.skip_spikes else rule


def _check_size(reading: Mapping[str, object], stored: int) -> None:
    """Raise an InputError if a prepared data set has another size than is asked for;
    the default asks for none."""
    known = parameters("data")
    source = reading.get("source", known["source"].default)
    default = known["size"].default
    size = reading.get("size", default)
    if source == "prepared" and size not in (default, stored):
        raise InputError(
            f"data.size={size}, but {reading.get('path')} was prepared with "
            f"--size={stored}; leave data.size out, or prepare the images with "
            f"--size={size}"
        )


def _frozen_rates(names: Sequence[str], model: AlexNet) -> dict[str, float]:
    """A rate of zero for each layer that has one of these names or is of that kind.

    Raises:
      InputError: if there is none.
    """
    rates = {}
    for name in names:
        layers = [n for n in model.layers if name in (n, n.rstrip("0123456789"))]
        if not layers:
            raise InputError(
                f"train.freeze={name} is no layer; choose from "
                f"{', '.join(model.layers)}, or conv or fc for all of a kind"
            )
        rates |= dict.fromkeys(layers, 0.0)
    return rates
