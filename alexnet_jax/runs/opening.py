"""Everything that a training has open while it runs, from the lock to the batches."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.data.loading import grain_datasets, prefetch
from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.data.sources.registry import say_about
from alexnet_jax.data.statistics import Statistics, mean_crop
from alexnet_jax.distributed import consensus, multihost, placement
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.runs import config_changes, hints, holding, run_data
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.determinism import Autotuning
from alexnet_jax.runs.metric_writer import MetricWriter
from alexnet_jax.runs.mirror import Mirror
from alexnet_jax.runs.recomputing import Replay, checked
from alexnet_jax.runs.save_or_stop import Requests
from alexnet_jax.runs.setup import Setup
from alexnet_jax.runs.shared_workdir import check_shared
from alexnet_jax.runs.time_spent import SAVING, VALIDATING
from alexnet_jax.runs.watching import TrainingWatchdog
from alexnet_jax.runtime import process_pool, progress
from alexnet_jax.runtime.errors import Diverged, Failure, InputError
from alexnet_jax.runtime.lock import locked
from alexnet_jax.runtime.signals import Interrupts
from alexnet_jax.training.finite import check_state
from alexnet_jax.training.held import Cut
from alexnet_jax.training.step import TrainState, TrainStep


Batches = contextlib.AbstractContextManager[Iterator[HostBatch]]
# Threads that a training starts once its devices are open, most of them Orbax's in a
# save, beside two for each core: 36 were counted on 2 cores. Where one of them can't
# start, a save may wait for ever.
THREADS = 32


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A training in progress.

    Attributes:
      start: the step that it continues from, 0 for a new one.
      state: the state after that step and, if it is done, its validation.
      mean: the mean image's centre crop, on every device.
      batches: what the host sends of the batches from there on.
      cut: from that, on the devices, to the batches.
      train: one step, from state, batch and mean image to state and metrics.
      validate: measures the errors of a state on the validation split.
      checkpoints: where it saves.
      metrics: where it writes what it measures.
      watchdog: ends this process if it is stuck.
      autotuning: what must be on the disk before a checkpoint is.
      requests: what is asked for after a step, by signals and by the clock.
    """

    start: int
    state: TrainState
    mean: jax.Array
    batches: Iterator[HostBatch]
    cut: Cut
    train: TrainStep
    validate: Callable[[TrainState], dict[str, float]]
    checkpoints: CheckpointWriter
    metrics: MetricWriter
    watchdog: TrainingWatchdog
    autotuning: Autotuning | None
    requests: Requests

    def save(self, step: int, state: TrainState) -> None:
        """Start to save a step's state, unless it is saved, and its metrics before it;
        nothing waits for the disk but the next save.

        Raises:
          Failure: if it has numbers that are not finite, or can't be written.
        """
        if step > self.start:
            self.watchdog.saves()
            keep_metrics = self.metrics.kept()
            with self.metrics.time.counted(SAVING):
                check_state(step, state)
                if self.autotuning is not None and multihost.is_main():
                    self.autotuning.keep()
                self.checkpoints.save(step, state, keep_metrics)
            self.requests.saved()

    def record(self, step: int, errors: dict[str, float]) -> None:
        """Note a step's validation, in the metrics and beside its checkpoint.

        Raises:
          Failure: if it is not finite, or the checkpoint or this can't be written.
        """
        self.metrics.validation(step, errors)
        with self.metrics.time.counted(SAVING):
            self.checkpoints.record_validation(step, errors)

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
      Miscomputed: if numbers of the block are no longer finite, and were when they were
        computed again.
    """
    workdirs.create(workdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_claimed(workdir, setup))
        for line in hints.at_start(setup, workdir):
            progress.say(line)
        # Left after the checkpoints: a signal must not end the wait for the last save.
        interrupts = stack.enter_context(Interrupts())
        # Left after the checkpoints, whose last save is copied too, and not watched.
        if setup.mirror is not None:
            stack.enter_context(Mirror(setup.mirror, workdir).following())
        watchdog = TrainingWatchdog(setup, workdir)
        stack.enter_context(watchdog)
        checkpoints = stack.enter_context(
            CheckpointWriter(workdir / workdirs.CHECKPOINTS, **setup.checkpoint)
        )
        # One of several processes can't leave alone: they stop together, after a step.
        check = interrupts.check if jax.process_count() == 1 else lambda: None
        statistics = _note_start(workdir, setup)
        mean = mean_crop(statistics, setup.pipeline.crop)
        start, state, validated = _first_state(setup, checkpoints, begin)
        if start:
            progress.say(f"continuing from step {start} of {workdir}")
        # Where nothing is left to train, nothing is read.
        held = setup.held if start < setup.plan.steps else {}
        cuts = holding.make_cuts(setup.pipeline, held, setup.mesh, check)
        metrics = MetricWriter(
            workdir,
            setup.plan,
            start=start,
            classes=len(setup.pipeline.dataset.class_names),
            advice=hints.faster_reading(setup.pipeline),
            validated=validated,
            writes=multihost.is_main(),
        )
        mean = jax.device_put(mean, placement.replicated(setup.mesh))
        own = [cuts["validation"]] if "validation" in cuts else []

        def batches(start: int) -> Batches:
            return _batches(setup, statistics, start, held="train" in held)

        def validate(state: TrainState) -> dict[str, float]:
            watchdog.validates()
            with metrics.time.counted(VALIDATING):
                errors = setup.validate(state, mean, watchdog.checked(check), *own)
            # Its result is added to what is saved.
            watchdog.saves()
            return errors

        requests = Requests(setup.mesh, interrupts, setup.plan.save_minutes)
        every = setup.plan.check_every
        run = Run(
            start=start,
            state=state,
            mean=mean,
            metrics=stack.enter_context(metrics),
            batches=watchdog.batches(stack.enter_context(batches(start))),
            cut=cuts.get("train", dict),
            train=checked(setup.steps.train, every) if every else setup.steps.train,
            validate=validate,
            checkpoints=checkpoints,
            watchdog=watchdog,
            autotuning=setup.determinism.autotuning,
            requests=requests,
        )

        def latest() -> tuple[int, TrainState]:
            watchdog.saves()
            checkpoints.wait()
            return _first_state(setup, checkpoints, begin)[:2]

        replay = Replay(
            setup=setup,
            first=latest,
            batches=batches,
            watched=watchdog.batches,
            cut=run.cut,
            mean=mean,
            validate=validate,
            stopped=lambda: requests.asked().stop > 0,
        )
        try:
            yield run
        except Diverged as error:
            raise replay.explained(error) from error
        finally:
            watchdog.saves()


@contextlib.contextmanager
def _claimed(workdir: Path, setup: Setup) -> Iterator[None]:
    """Hold a directory in which this run can start or continue, in all processes."""
    fingerprint = setup.pipeline.dataset.fingerprint
    agreed = {**config_changes.comparable(setup.config), "the data": fingerprint}
    consensus.check_same(agreed)
    _check_threads(setup)
    with contextlib.ExitStack() as stack:
        lock = locked(workdir, f"{workdir} is in use")
        consensus.in_main(lambda: stack.enter_context(lock))
        check_shared(workdir)
        workdirs.check_run(workdir, setup.config)
        run_data.check_data(workdir, setup.pipeline)
        yield


def _check_threads(setup: Setup) -> None:
    """Raise an InputError if the system does not allow a training's threads."""
    pipeline = setup.pipeline
    workers = 0 if "train" in setup.held else pipeline.workers
    needed = THREADS + 2 * process_pool.cores()
    needed += prefetch.threads_needed(workers, pipeline.threads_each)
    otherwise = prefetch.WITHOUT_WORKERS if workers else ""
    process_pool.check_startable(needed, "training", otherwise)


def _first_state(
    setup: Setup,
    checkpoints: CheckpointWriter,
    begin: Callable[[Setup], TrainState],
) -> tuple[int, TrainState, bool]:
    """The step that a run continues from, its state, and whether it is validated."""
    if not checkpoints.steps:
        return 0, begin(setup), False
    start, state = checkpoints.restore_latest(setup.steps.abstract)
    # A run may have been stopped between a step and the end of its validation.
    error = checkpoints.validation_error(start)
    # A shorter run's last step is validated, and may be any step of this one.
    if error is not None and setup.plan.validates(start):
        state = setup.steps.after_validation(state, error)
    return start, state, error is not None


def _note_start(workdir: Path, setup: Setup) -> Statistics:
    """Write what runs here, and measure the data if no start has yet."""
    if multihost.is_main():
        say_about(setup.pipeline.dataset, str(setup.config["data"].get("path")))
        chosen = {
            "held_by_devices": list(setup.held),
            "determinism": setup.determinism.noted(),
            "implementation": {"model.implementation": hints.what_runs(setup).runs},
        }
        workdirs.start_run(workdir, setup.config, chosen)
        run_data.note_data(workdir, setup.pipeline, setup.plan.init_from)
    multihost.wait_for_all("the data are measured")
    return run_data.read_data(workdir).statistics


def _batches(
    setup: Setup, statistics: Statistics, start: int, *, held: bool
) -> Batches:
    """This process's slice of every training batch from a step on."""
    # Nothing is decoded where the devices hold the images, so no worker helps.
    workers = 0 if held else setup.pipeline.workers
    pipeline = dataclasses.replace(setup.pipeline, workers=workers)
    share, shares = meshes.data_share(setup.mesh)
    dataset = grain_datasets.train_dataset(
        pipeline,
        statistics,
        batch_size=setup.plan.batch_size,
        seed=setup.plan.seed,
        slice_index=share,
        slice_count=shares,
        held=held,
    )
    return prefetch.read(pipeline, dataset, start)
