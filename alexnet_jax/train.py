"""A training run: build, restore, loop, validate, save.

What a config's sections are is said in `SECTIONS`, at the end.
"""

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import figures, losses, processes, progress
from alexnet_jax import mesh as meshes
from alexnet_jax import pipeline as pipelines
from alexnet_jax import report as reports
from alexnet_jax import step as steps
from alexnet_jax import workdir as workdirs
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import InputError, Interrupted
from alexnet_jax.interrupt import Interrupts
from alexnet_jax.model import AlexNet
from alexnet_jax.optimizer import after_validation, momentum_sgd
from alexnet_jax.pipeline import Pipeline
from alexnet_jax.plan import make_plan
from alexnet_jax.schedule import make_schedule


def run(config: Mapping[str, Any] | ConfigDict, workdir: Path) -> dict[str, Any]:
    """Train from where the work directory stands to the end of the config's plan.

    Args:
      config: the sections of `SECTIONS`, as a mapping or a ConfigDict.
      workdir: gets the run's files; where it has checkpoints the run goes on from the
        latest.

    Returns:
      The step reached and the last validation's loss and errors.

    Raises:
      InputError: if something in the config, the data or the directory is wrong.
      Interrupted: after saving, if Ctrl-C or SIGTERM asked to stop.
    """
    settings = plain(config)
    if unknown := sorted(set(settings) - set(SECTIONS)):
        raise InputError(
            f"config.{unknown[0]} is unknown; sections are {', '.join(SECTIONS)}"
        )
    workdirs.create(workdir)
    workdirs.check_format(workdir)
    towers = settings.get("model", {}).get("towers", AlexNet.towers)
    mesh = call(settings, "mesh", towers=towers)
    pipeline = call(settings, "data")
    dataset = pipeline.dataset
    processes.check_same(
        {**workdirs.comparable(settings), "the data": dataset.fingerprint}
    )
    workdirs.check_run(workdir, settings, dataset.fingerprint)
    examples = len(dataset.splits["train"])
    plan = call(settings, "train", examples=examples)
    meshes.check_batch(plan.batch_size, mesh.shape["data"], "train.batch_size")
    model = call(settings, "model", num_classes=len(dataset.class_names))
    model.check_size(pipeline.crop, pipeline.crop)
    schedule = call(
        settings,
        "schedule",
        steps_per_epoch=plan.steps_per_epoch,
        batch_size=plan.batch_size,
    )
    optimizer = call(settings, "optimizer", schedule)
    abstract_state = steps.abstract_state(model, optimizer, mesh, pipeline.crop)
    validate = call(settings, "eval", model=model, mesh=mesh, pipeline=pipeline)
    checkpoints = call(
        settings, "checkpoint", workdir / workdirs.CHECKPOINTS, clean=True
    )
    share, shares = meshes.data_share(mesh)

    with checkpoints, Interrupts() as interrupts:
        # One of several processes can't leave alone; they stop together, after a step.
        alone = jax.process_count() == 1
        check = interrupts.check if alone else lambda: None
        if processes.is_main():
            workdirs.start_run(workdir, settings)
            measure_data(workdir, pipeline, check)
        processes.wait_for_all("the data are measured")
        data = workdirs.read_data(workdir)
        mean = pipelines.mean_crop(data.statistics, pipeline.crop)
        mean = jax.device_put(mean, steps.replicated(mesh))
        validate = partial(validate, mean=mean)
        if checkpoints.steps:
            start = checkpoints.find("latest")
            state = checkpoints.restore(start, abstract_state)
            progress.say(f"going on from step {start} of {workdir}")
        else:
            start = 0
            state = steps.init_state(model, optimizer, mesh, pipeline.crop, plan.seed)
        # A run may have been stopped between a step and its validation.
        late = plan.validates(start) and checkpoints.steps.get(start) is None

        train_step = steps.make_train_step(model, optimizer, schedule, mesh, plan.seed)
        learn = jax.jit(partial(after_validation, schedule), donate_argnums=0)
        batches = pipelines.train_dataset(
            pipeline,
            data.statistics,
            batch_size=plan.batch_size,
            seed=plan.seed,
            share=share,
            shares=shares,
        )
        report = reports.Report(
            workdir,
            start=start,
            steps=plan.steps,
            steps_per_epoch=plan.steps_per_epoch,
            batch_size=plan.batch_size,
            revalidate=late,
            writes=processes.is_main(),
        )
        stop = processes.Agreement(mesh)
        result: dict[str, float] = {}

        def validated(step: int, state: steps.TrainState) -> steps.TrainState:
            # Saved first: a validation may take long, or fail on a picture.
            report.flush()
            checkpoints.save(step, state)
            result.update(validate(state.params, check=check))
            error = np.float32(result["top1_error"])
            state = state._replace(opt_state=learn(state.opt_state, error))
            report.validation(step, result)
            report.flush()
            checkpoints.save(step, state, result["top1_error"])
            return state

        with report, pipelines.read(pipeline, batches, start) as iterator:
            if late:
                state = validated(start, state)
            signal = 0
            for step in range(start + 1, plan.steps + 1):
                batch, waited = timed_next(iterator, mesh)
                state, metrics = train_step(state, batch, mean)
                report.train(step, metrics, waited)
                signal = stop.largest(interrupts.received or 0)
                if signal:
                    report.flush()
                    checkpoints.save(step, state)
                    break
                if plan.validates(step):
                    state = validated(step, state)
                elif plan.saves(step):
                    report.flush()
                    checkpoints.save(step, state)
            checkpoints.wait()
        kernels = meshes.whole(state.params[model.layers[0]]["kernel"])
        if signal:
            progress.say(f"stopped; `{workdir}` goes on where it stands")
            raise Interrupted(signal)
    if processes.is_main() and kernels.shape[3] == 3:
        figures.save_kernels(kernels, workdir / workdirs.FIGURES / "kernels.png")
    return {"step": int(state.step), "workdir": str(workdir), **result}


def make_validation(
    *,
    model: AlexNet,
    mesh: Mesh,
    pipeline: Pipeline,
    batch_size: int = 128,
    views: int = 1,
) -> Callable[..., dict[str, float]]:
    """A function that measures the validation errors of parameters; it takes them, the
    mean picture, and a function that is called after every batch and may raise."""
    meshes.check_batch(batch_size, mesh.shape["data"], "eval.batch_size")
    if views not in (1, 10):
        raise InputError(f"eval.views={views} must be 1 or 10")
    evaluate = steps.make_eval_step(
        model, mesh, crop=pipeline.crop, views=views, mirrors=pipeline.flip
    )
    share, shares = meshes.data_share(mesh)
    dataset = pipelines.evaluation_dataset(
        pipeline,
        "validation",
        batch_size=batch_size,
        share=share,
        shares=shares,
    )

    def validate(
        params: Any, mean: jax.Array, check: Callable[[], None]
    ) -> dict[str, float]:
        total: dict[str, Any] = {}
        with pipelines.read(pipeline, dataset) as batches:
            for batch in batches:
                sums, _ = evaluate(params, pipelines.to_devices(batch, mesh), mean)
                total = jax.tree.map(jnp.add, total, sums) if total else sums
                check()
        return losses.means({name: float(value) for name, value in total.items()})

    return validate


def measure_data(workdir: Path, pipeline: Pipeline, check: Callable[[], None]) -> None:
    """Write down the data's names and statistics, measured at the first start.

    `check` is called again and again meanwhile, and may raise.
    """
    if (workdir / workdirs.DATASET_FILE).exists():
        return
    dataset = pipeline.dataset
    statistics = dataset.statistics
    if statistics is None:
        total = len(dataset.splits["train"])
        with progress.counted("mean picture and colours", total) as count:

            def advance(done: int) -> None:
                count(done)
                check()

            statistics = pipelines.measure_statistics(pipeline, advance)
    data = workdirs.Data(
        class_names=dataset.class_names,
        size=dataset.size,
        crop=pipeline.crop,
        fingerprint=dataset.fingerprint,
        statistics=statistics,
    )
    workdirs.write_data(workdir, data)


def timed_next(
    iterator: Iterator[dict[str, np.ndarray]], mesh: Mesh
) -> tuple[dict[str, jax.Array], float]:
    """The next batch on the devices, and the seconds it took while they worked on."""
    begin = time.monotonic()
    batch = pipelines.to_devices(next(iterator), mesh)
    return batch, time.monotonic() - begin


def call(config: Mapping[str, Any], section: str, *given: Any, **named: Any) -> Any:
    """Call a section's function with its keys as keyword arguments.

    Raises:
      InputError: if a key is none of them.
    """
    check_keys(config, section)
    return SECTIONS[section](*given, **named, **config.get(section, {}))


def check_keys(config: Mapping[str, Any], section: str) -> None:
    """Raise an InputError if a key of a section is no argument of its function."""
    for key in config.get(section, {}):
        if key not in keys(section):
            raise InputError(
                f"config.{section}.{key} is unknown; "
                f"choose from {', '.join(keys(section))}"
            )


def keys(section: str) -> list[str]:
    """The keys of a config section."""
    parameters = inspect.signature(SECTIONS[section]).parameters
    return [name for name in parameters if name not in GIVEN_BY_RUN.get(section, ())]


def plain(value: Any) -> Any:
    """A config as plain dictionaries, with tuples for lists."""
    if hasattr(value, "items"):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(inner) for inner in value)
    return value


# A config section's keys are the keyword arguments of one function.
SECTIONS: dict[str, Callable[..., Any]] = {
    "data": pipelines.open_pipeline,
    "model": AlexNet,
    "optimizer": momentum_sgd,
    "schedule": make_schedule,
    "train": make_plan,
    "eval": make_validation,
    "mesh": meshes.open_mesh,
    "checkpoint": Checkpoints,
}
# But for these, which the run itself gives.
GIVEN_BY_RUN: dict[str, tuple[str, ...]] = {
    "model": ("num_classes", "tower_axis", "parent", "name"),
    "optimizer": ("schedule",),
    "schedule": ("steps_per_epoch", "batch_size"),
    "train": ("examples",),
    "eval": ("model", "mesh", "pipeline"),
    "mesh": ("towers",),
    "checkpoint": ("directory", "clean"),
}
