"""A training run: build, restore, loop, validate, save."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax.data import statistics
from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.data.loading import prefetch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.distributed import consensus, multihost
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.inference import finetune
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import metric_writer
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import SECTIONS, call, completed, plain
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import Diverged, InputError, Interrupted
from alexnet_jax.runtime.lock import locked
from alexnet_jax.runtime.signals import Interrupts
from alexnet_jax.training import step as steps
from alexnet_jax.training.optimizer import after_validation


def run(config: Mapping[str, Any] | ConfigDict, workdir: Path) -> dict[str, Any]:
    """Train from where the work directory stands to the end of the config's plan.

    Args:
      config: the sections of `sections.SECTIONS`, as a mapping or a ConfigDict.
      workdir: gets the run's files; where it has checkpoints the run goes on from the
        latest.

    Returns:
      The step reached and the last validation's loss and errors.

    Raises:
      InputError: if something in the config, the data or the directory is wrong.
      Interrupted: after saving, if Ctrl-C or SIGTERM asked to stop.
      Failure: if something breaks under way; what was saved before is whole.
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
    fingerprint = pipeline.dataset.fingerprint
    consensus.check_same({**workdirs.comparable(settings), "the data": fingerprint})
    with contextlib.ExitStack() as held:
        lock = locked(workdir, f"{workdir} is in use")
        consensus.in_main(lambda: held.enter_context(lock))
        return _run(settings, workdir, mesh, pipeline)


def _run(
    settings: Mapping[str, Any], workdir: Path, mesh: Mesh, pipeline: Pipeline
) -> dict[str, Any]:
    """The run, once the mesh and the data are open and the directory is ours."""
    dataset = pipeline.dataset
    workdirs.check_run(workdir, settings, dataset.fingerprint, completed)
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
        if multihost.is_main():
            workdirs.start_run(workdir, settings)
            measure_data(workdir, pipeline, check)
        multihost.wait_for_all("the data are measured")
        data = workdirs.read_data(workdir)
        mean = statistics.mean_crop(data.statistics, pipeline.crop)
        mean = jax.device_put(mean, meshes.replicated(mesh))
        validate = partial(validate, mean=mean)
        if checkpoints.steps:
            start, state = checkpoints.restore_latest(abstract_state)
            progress.say(f"going on from step {start} of {workdir}")
        else:
            start = 0
            state = steps.init_state(model, optimizer, mesh, pipeline.crop, plan.seed)
            if plan.init_from is not None:
                params = finetune.init_from(
                    plan.init_from,
                    state.params,
                    model,
                    dataset.class_names,
                    mesh,
                )
                state = state._replace(params=params)
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
        report = metric_writer.Report(
            workdir,
            start=start,
            steps=plan.steps,
            steps_per_epoch=plan.steps_per_epoch,
            batch_size=plan.batch_size,
            revalidate=late,
            writes=multihost.is_main(),
        )
        stop = consensus.Agreement(mesh)
        result: dict[str, float] = {}

        def save(
            step: int, state: steps.TrainState, error: float | None = None
        ) -> None:
            report.flush()
            # A gradient may have overflowed where the loss did not.
            if not steps.is_finite(state):
                raise Diverged(
                    f"step {step}: the state is no longer finite; "
                    + metric_writer.DIVERGED
                )
            checkpoints.save(step, state, error)

        def validated(step: int, state: steps.TrainState) -> steps.TrainState:
            # Saved first: a validation may take long, or fail on a picture.
            save(step, state)
            result.update(validate(state.params, check=check))
            error = np.float32(result["top1_error"])
            state = state._replace(opt_state=learn(state.opt_state, error))
            report.validation(step, result)
            save(step, state, result["top1_error"])
            return state

        with report, prefetch.read(pipeline, batches, start) as iterator:
            if late:
                state = validated(start, state)
            signal = 0
            for step in range(start + 1, plan.steps + 1):
                batch, waited = timed_next(iterator, mesh)
                state, metrics = train_step(state, batch, mean)
                report.train(step, metrics, waited)
                signal = stop.largest(interrupts.received or 0)
                if signal:
                    save(step, state)
                    break
                if plan.validates(step):
                    state = validated(step, state)
                elif plan.saves(step):
                    save(step, state)
            checkpoints.wait()
        if signal:
            progress.say(f"stopped; `{workdir}` goes on where it stands")
            raise Interrupted(signal)
    if not result:
        # The run was at its end already.
        result = metric_writer.last_validation(workdir)
    return {"step": int(state.step), "workdir": str(workdir), **result}


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
    if not pipeline.subtract_mean:
        zeros = np.zeros_like(statistics.mean)
        statistics = dataclasses.replace(statistics, mean=zeros)
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
    batch = meshes.to_devices(next(iterator), mesh)
    return batch, time.monotonic() - begin
