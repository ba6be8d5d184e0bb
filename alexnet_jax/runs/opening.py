"""Everything that a training has open while it runs, from the lock to the batches."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.data.loading import prefetch
from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.data.sources.registry import say_about
from alexnet_jax.data.statistics import Statistics, mean_crop
from alexnet_jax.distributed import consensus, multihost, placement
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.runs import hints, run_data
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.metric_writer import MetricWriter
from alexnet_jax.runs.setup import Setup
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import Failure, InputError
from alexnet_jax.runtime.lock import locked
from alexnet_jax.runtime.signals import Interrupts
from alexnet_jax.training.step import TrainState, check_state


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A training in progress.

    Attributes:
      start: the step that it continues from, 0 for a new one.
      state: the state after that step and, if it is done, its validation.
      mean: the mean image's centre crop, on every device.
      batches: the host batches from there on.
      checkpoints: where it saves.
      metrics: where it writes what it measures.
      signal: the number of a signal that asks all processes to stop after this step,
        0 for none; to be called once a step.
      check: raises Interrupted if a signal has come, where leaving at once is possible.
    """

    start: int
    state: TrainState
    mean: jax.Array
    batches: Iterator[HostBatch]
    checkpoints: CheckpointWriter
    metrics: MetricWriter
    signal: Callable[[], int]
    check: Callable[[], None]

    def save(self, step: int, state: TrainState) -> None:
        """Start to save a step's state, unless it is saved, and its metrics before it.

        Raises:
          Failure: if it has numbers that are not finite, or can't be written.
        """
        if step > self.start:
            self.metrics.flush()
            check_state(step, state)
            self.checkpoints.save(step, state)

    @contextlib.contextmanager
    def saved_if_unreadable(self, step: int, state: TrainState) -> Iterator[None]:
        """Save a step's state where the data of the next step can't be read.

        Only a process that is alone can: of several, the others don't know yet that all
        must stop, and a checkpoint is saved by all of them together.
        """
        try:
            yield
        except (Failure, InputError):
            if jax.process_count() == 1:
                self.save(step, state)
                self.checkpoints.wait()
            raise


@contextlib.contextmanager
def open_run(
    setup: Setup, workdir: Path, begin: Callable[[Setup], TrainState]
) -> Iterator[Run]:
    """Hold a work directory and open everything that a training needs.

    Args:
      setup: of the run.
      workdir: of the run; it is made, and where it has checkpoints the latest is
        restored.
      begin: makes the state before the first step.

    Raises:
      InputError: if another run holds the directory, or has left something in it that
        this one can't continue.
    """
    workdirs.create(workdir)
    with contextlib.ExitStack() as stack:
        fingerprint = setup.pipeline.dataset.fingerprint
        agreed = {**workdirs.comparable(setup.config), "the data": fingerprint}
        consensus.check_same(agreed)
        lock = locked(workdir, f"{workdir} is in use")
        consensus.in_main(lambda: stack.enter_context(lock))
        workdirs.check_run(workdir, setup.config)
        run_data.check_data(workdir, setup.pipeline)
        for line in (
            hints.opening_line(setup, workdir),
            *hints.type_hints(setup),
            *hints.implementation(setup),
            *hints.warnings(setup.plan),
        ):
            progress.say(line)
        # Left after the checkpoints: a signal must not end the wait for the last save.
        interrupts = stack.enter_context(Interrupts())
        checkpoints = stack.enter_context(
            CheckpointWriter(workdir / workdirs.CHECKPOINTS, **setup.checkpoint)
        )
        stop = consensus.Agreement(setup.mesh)
        # One of several processes can't leave alone: they stop together, after a step.
        check = interrupts.check if jax.process_count() == 1 else lambda: None
        statistics = _note_start(workdir, setup)
        mean = mean_crop(statistics, setup.pipeline.crop)
        if checkpoints.steps:
            start, state = checkpoints.restore_latest(setup.steps.abstract)
            progress.say(f"continuing from step {start} of {workdir}")
        else:
            start, state = 0, begin(setup)
        # A run may have been stopped between a step and the end of its validation.
        error = checkpoints.validation_error(start)
        if error is not None:
            state = setup.steps.after_validation(state, error)
        metrics = MetricWriter(
            workdir,
            setup.plan,
            start=start,
            classes=len(setup.pipeline.dataset.class_names),
            advice=hints.faster_reading(setup.pipeline),
            validated=error is not None,
            writes=multihost.is_main(),
        )
        yield Run(
            start=start,
            state=state,
            mean=jax.device_put(mean, placement.replicated(setup.mesh)),
            metrics=stack.enter_context(metrics),
            batches=stack.enter_context(_batches(setup, statistics, start)),
            checkpoints=checkpoints,
            signal=lambda: stop.largest(interrupts.received or 0),
            check=check,
        )


def _note_start(workdir: Path, setup: Setup) -> Statistics:
    """Write what runs here, and measure the data if no start has yet."""
    if multihost.is_main():
        say_about(setup.pipeline.dataset, str(setup.config["data"].get("path")))
        chosen = {
            "implementation": {"model.implementation": hints.what_runs(setup).runs}
        }
        workdirs.start_run(workdir, setup.config, chosen)
        run_data.note_data(workdir, setup.pipeline, setup.plan.init_from)
    multihost.wait_for_all("the data are measured")
    return run_data.read_data(workdir).statistics


def _batches(
    setup: Setup, statistics: Statistics, start: int
) -> contextlib.AbstractContextManager[Iterator[HostBatch]]:
    """This process's slice of every training batch from a step on."""
    share, shares = meshes.data_share(setup.mesh)
    dataset = pipelines.train_dataset(
        setup.pipeline,
        statistics,
        batch_size=setup.plan.batch_size,
        seed=setup.plan.seed,
        slice_index=share,
        slice_count=shares,
    )
    return prefetch.read(setup.pipeline, dataset, start)
