"""The training loop.

A run is a function of its config and its data: stopped at any point, by a signal or a
power cut, the same command continues it to the same bits.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh

from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.distributed.placement import to_devices
from alexnet_jax.inference import finetune
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import metrics_file
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import Config
from alexnet_jax.runs.opening import open_run
from alexnet_jax.runs.setup import Setup, build_setup
from alexnet_jax.runs.unreadable_images import list_unreadable
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError, Interrupted, UnreadableImage
from alexnet_jax.runtime.paths import local
from alexnet_jax.training.optimizer_state import begin_with
from alexnet_jax.training.step import TrainState


def run(
    config: Config, workdir: str | Path, mirror: str | None = None
) -> dict[str, object]:
    """Train as a config says; see `train`.

    Args:
      config: the sections of `runs.config.SECTIONS`, as mappings or a ConfigDict.
      workdir: gets the run's files.
      mirror: an address, as `gs://bucket/run`, that what is saved is copied to, and
        fetched from where the work directory has nothing.
    """
    # Before the data are opened, which may take long.
    workdir = local(workdir)
    with workdirs.created(workdir):
        setup = build_setup(config, workdir=workdir, mirror=mirror)
    try:
        return train(setup, workdir)
    except UnreadableImage as error:
        raise list_unreadable(workdir, setup.pipeline, error) from error


def train(setup: Setup, workdir: str | Path) -> dict[str, object]:
    """Train to the end of the plan, from the latest checkpoint if there is one.

    Args:
      setup: what is trained, and how.
      workdir: gets the run's files.

    Returns:
      The step reached and the last validation's loss and errors.

    Raises:
      InputError: if something in the config, the data or the directory is wrong.
      Interrupted: after saving, if Ctrl-C or SIGTERM asked to stop.
      Failure: if something breaks on the way; what was saved before is whole. Numbers
        that are not finite are computed again first (`runs.recomputing`).
    """
    workdir, plan, steps = local(workdir), setup.plan, setup.steps
    with open_run(setup, workdir, begin) as run:
        checkpoints, metrics, state = run.checkpoints, run.metrics, run.state
        for step in range(run.start, plan.steps + 1):
            stop, due = run.requests.asked()
            validates = (
                plan.validates(step) and checkpoints.validation_error(step) is None
            )
            # Saved before it is validated: a validation may take long, or fail.
            if validates or due or plan.saves(step):
                run.save(step, state)
            if stop:
                # A save that fails is what the run ends with.
                checkpoints.wait()
                progress.say(f"stopped; the same command continues `{workdir}`")
                raise Interrupted(stop)
            if validates:
                metrics.validates()
                errors = run.validate(state)
                run.record(step, errors)
                state = steps.after_validation(state, errors["top1_error"])
            if step == plan.steps or (plan.validates(step) and setup.enough(workdir)):
                break
            with run.saved_if_unreadable(step, state):
                batch, waited = timed_next(run.batches, setup.mesh)
            state, step_metrics = run.train(state, run.cut(batch), run.mean)
            metrics.train(step + 1, step_metrics, waited)
    errors = metrics_file.last_validation(workdir)
    return {"step": int(jax.device_get(state.step)), "workdir": str(workdir), **errors}


def begin(setup: Setup) -> TrainState:
    """The state before the first step: initial values, or a pretrained run's."""
    state, source = setup.steps.initial(), setup.plan.init_from
    if source is None:
        return state
    if not isinstance(setup.model, AlexNet):
        raise InputError("train.init_from is for AlexNet alone; leave it out")
    names = setup.pipeline.dataset.class_names
    params = finetune.init_from(source, state.params, setup.model, names, setup.mesh)
    opt_state = begin_with(params, state.opt_state)
    return state._replace(params=params, opt_state=opt_state)


def timed_next(
    batches: Iterator[HostBatch], mesh: Mesh
) -> tuple[dict[str, jax.Array], float]:
    """What the host sends of the next batch, on the devices, and the seconds that the
    devices may have waited for it."""
    begin = time.monotonic()
    batch = to_devices(next(batches), mesh)
    return batch, time.monotonic() - begin
