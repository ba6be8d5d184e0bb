"""A training run: build, restore, loop, validate, save.

A config section's keys are the keyword arguments of one function:

    data        pipeline.open_pipeline
    model       model.AlexNet
    optimizer   optimizer.momentum_sgd
    schedule    optimizer.make_schedule
    train       train.make_plan
    eval        train.make_validation
    mesh        mesh.open_mesh
    checkpoint  checkpoint.Checkpoints
"""

import dataclasses
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

from alexnet_jax import figures, losses, mesh as meshes, pipeline as pipelines
from alexnet_jax import report as reports, step as steps, workdir as workdirs
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import InputError, Interrupted
from alexnet_jax.interrupt import Interrupts
from alexnet_jax.model import AlexNet
from alexnet_jax.optimizer import after_validation, make_schedule, momentum_sgd
from alexnet_jax.pipeline import Pipeline

# Arguments of `AlexNet` that Flax and the mesh give.
NOT_FROM_CONFIG = ("parent", "name", "num_classes", "tower_axis")


def run(config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """Train from where the work directory stands to the end of the config's plan.

    Args:
      config: the sections above, as a mapping or a ConfigDict.
      workdir: gets the run's files; where it has checkpoints the run goes on from the
        latest.

    Returns:
      The step reached and the last validation's loss and errors.

    Raises:
      InputError: if something in the config, the data or the directory is wrong.
      Interrupted: after saving, if Ctrl-C or SIGTERM asked to stop.
    """
    config = plain(config)
    workdirs.create(workdir)
    workdirs.check_format(workdir)
    towers = config["model"].get("towers", 2)
    mesh = call(config, "mesh", meshes.open_mesh, towers=towers)
    pipeline = call(config, "data", pipelines.open_pipeline)
    dataset = pipeline.dataset
    workdirs.check_data(workdir, dataset.fingerprint)
    examples = len(dataset.splits["train"])
    plan = call(config, "train", make_plan, examples=examples)
    meshes.check_batch(plan.batch_size, mesh.shape["data"], "train.batch_size")
    model = call(config, "model", AlexNet, num_classes=len(dataset.class_names))
    model.check_size(pipeline.crop, pipeline.crop)
    schedule = call(
        config, "schedule", make_schedule, steps_per_epoch=plan.steps_per_epoch
    )
    optimizer = call(config, "optimizer", partial(momentum_sgd, schedule))
    abstract_state = steps.abstract_state(model, optimizer, mesh, pipeline.crop)
    validate = call(
        config, "eval", make_validation, model=model, mesh=mesh, pipeline=pipeline
    )
    new_checkpoints = partial(Checkpoints, workdir / workdirs.CHECKPOINTS)
    checkpoints = call(config, "checkpoint", new_checkpoints)
    workdirs.start_run(workdir, config)

    with checkpoints, Interrupts() as interrupts:
        data = measured_data(workdir, pipeline)
        mean = pipelines.mean_crop(data.statistics, pipeline.crop)
        mean = jax.device_put(mean, steps.replicated(mesh))
        validate = partial(validate, mean=mean)
        if checkpoints.steps:
            start = checkpoints.find("latest")
            state = checkpoints.restore(start, abstract_state)
            reports.say(f"going on from step {start} of {workdir}")
        else:
            start = 0
            state = steps.init_state(model, optimizer, mesh, pipeline.crop, plan.seed)
        # A run may have been stopped between a step and its validation.
        late = plan.validates(start) and checkpoints.steps.get(start) is None

        train_step = steps.make_train_step(model, optimizer, schedule, mesh, plan.seed)
        learn = jax.jit(partial(after_validation, schedule), donate_argnums=0)
        process = {"process": jax.process_index(), "processes": jax.process_count()}
        batches = pipelines.train_dataset(
            pipeline,
            data.statistics,
            batch_size=plan.batch_size,
            seed=plan.seed,
            **process,
        )
        report = reports.Report(
            workdir,
            start=start,
            steps=plan.steps,
            steps_per_epoch=plan.steps_per_epoch,
            batch_size=plan.batch_size,
            revalidate=late,
        )
        result: dict[str, float] = {}

        def validated(step: int, state: steps.TrainState) -> steps.TrainState:
            report.flush()
            result.update(validate(state.params))
            error = jnp.asarray(result["top1_error"], jnp.float32)
            state = state._replace(opt_state=learn(state.opt_state, error))
            report.validation(step, result)
            report.flush()
            checkpoints.save(step, state, result["top1_error"])
            return state

        with report, pipelines.read(pipeline, batches, start) as iterator:
            if late:
                state = validated(start, state)
            for step in range(start + 1, plan.steps + 1):
                batch, waited = timed_next(iterator)
                batch = pipelines.to_devices(batch, mesh)
                state, metrics = train_step(state, batch, mean)
                report.train(step, metrics, waited)
                if interrupts.received is not None:
                    report.flush()
                    checkpoints.save(step, state)
                    break
                if plan.validates(step):
                    state = validated(step, state)
                elif plan.saves(step):
                    report.flush()
                    checkpoints.save(step, state)
            checkpoints.wait()
        kernels = jax.device_get(state.params[model.layers[0]]["kernel"])
        if interrupts.received is not None:
            reports.say(f"stopped; `{workdir}` goes on where it stands")
            raise Interrupted(interrupts.received)
    if kernels.shape[3] == 3:
        figures.save_kernels(kernels, workdir / workdirs.FIGURES / "kernels.png")
    return {"step": int(state.step), "workdir": str(workdir), **result}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How long a run is and when it validates and saves. Made by `make_plan`."""

    batch_size: int
    seed: int
    steps: int
    steps_per_epoch: float
    validate_steps: int | None
    save_steps: int | None

    def validates(self, step: int) -> bool:
        """Whether a validation follows this step: every so often, and after the last."""
        if step in (0, self.steps):
            return step > 0
        if self.validate_steps is not None:
            return step % self.validate_steps == 0
        # The first step at which a further epoch is complete.
        return int(step / self.steps_per_epoch) > int((step - 1) / self.steps_per_epoch)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint without a validation follows this step."""
        return self.save_steps is not None and step % self.save_steps == 0


def make_plan(
    *,
    examples: int,
    batch_size: int = 128,
    steps: int | None = None,
    epochs: float | None = None,
    seed: int = 0,
    validate_steps: int | None = None,
    save_steps: int | None = None,
) -> Plan:
    """How long a run is.

    Args:
      examples: in the training split.
      batch_size: pictures in a step, over all devices.
      steps: the run's length; where it is None,
      epochs: its length in passes over the training pictures.
      seed: of everything random.
      validate_steps: steps between validations; None for one after every epoch.
      save_steps: steps between checkpoints beside those after validations.

    Raises:
      InputError: if no length is given, or a number is not positive.
    """
    if steps is None and epochs is None:
        raise InputError("give train.steps or train.epochs")
    meshes.check_batch(batch_size, 1, "train.batch_size")
    steps_per_epoch = examples / batch_size
    if steps is None:
        steps = round((epochs or 0) * steps_per_epoch)
    lengths = {
        "train.steps": steps,
        "train.validate_steps": validate_steps,
        "train.save_steps": save_steps,
    }
    for name, value in lengths.items():
        if value is not None and value < 1:
            raise InputError(f"{name}={value} must be at least 1")
    return Plan(
        batch_size=batch_size,
        seed=seed,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        validate_steps=validate_steps,
        save_steps=save_steps,
    )


def make_validation(
    *,
    model: AlexNet,
    mesh: Mesh,
    pipeline: Pipeline,
    batch_size: int = 128,
    views: int = 1,
) -> Callable[..., dict[str, float]]:
    """A function of parameters and mean picture that measures the validation errors."""
    meshes.check_batch(batch_size, mesh.shape["data"], "eval.batch_size")
    evaluate = steps.make_eval_step(model, mesh, crop=pipeline.crop, views=views)
    dataset = pipelines.evaluation_dataset(
        pipeline,
        "validation",
        batch_size=batch_size,
        process=jax.process_index(),
        processes=jax.process_count(),
    )

    def validate(params: Any, mean: jax.Array) -> dict[str, float]:
        total: dict[str, Any] = {}
        with pipelines.read(pipeline, dataset) as batches:
            for batch in batches:
                sums, _ = evaluate(params, pipelines.to_devices(batch, mesh), mean)
                total = jax.tree.map(jnp.add, total, sums) if total else sums
        return losses.means({name: float(value) for name, value in total.items()})

    return validate


def measured_data(workdir: Path, pipeline: Pipeline) -> workdirs.Data:
    """The data's names and statistics, measured at the first start and kept."""
    if (workdir / workdirs.DATASET_FILE).exists():
        return workdirs.read_data(workdir)
    dataset = pipeline.dataset
    statistics = dataset.statistics
    if statistics is None:
        total = len(dataset.splits["train"])
        with reports.progress_bar() as bar:
            task = bar.add_task("mean picture and colours", total=total, note="")
            advance = partial(bar.advance, task)
            statistics = pipelines.measure_statistics(pipeline, advance)
    data = workdirs.Data(
        class_names=dataset.class_names,
        size=dataset.size,
        crop=pipeline.crop,
        fingerprint=dataset.fingerprint,
        statistics=statistics,
    )
    workdirs.write_data(workdir, data)
    return data


def timed_next(
    iterator: Iterator[dict[str, np.ndarray]],
) -> tuple[dict[str, np.ndarray], float]:
    """The next batch and the seconds it was waited for."""
    begin = time.monotonic()
    batch = next(iterator)
    return batch, time.monotonic() - begin


def call(
    config: Mapping[str, Any], section: str, function: Callable[..., Any], **given: Any
) -> Any:
    """Call a function with a config section's keys as its keyword arguments.

    Raises:
      InputError: if a key is none of them.
    """
    settings = config.get(section, {})
    parameters = inspect.signature(function).parameters
    taken = [
        name
        for name in parameters
        if name not in given and name not in NOT_FROM_CONFIG
    ]
    for key in settings:
        if key not in taken:
            raise InputError(
                f"config.{section}.{key} is unknown; choose from {', '.join(taken)}"
            )
    return function(**given, **settings)


def plain(value: Any) -> Any:
    """A config as plain dictionaries, with tuples for lists."""
    if hasattr(value, "items"):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(inner) for inner in value)
    return value
