"""Training from arrays in memory: what the experiments on small pictures share.

It does what `alexnet_jax.train` does, and needs neither Grain nor ml_collections, so
that it also runs where these are not installed.
"""

import contextlib
import json
import time
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, Sharding

from alexnet_jax.checkpoint.checkpointer import Checkpoints
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import metric_writer
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import Diverged, Interrupted
from alexnet_jax.runtime.signals import Interrupts
from alexnet_jax.training import losses
from alexnet_jax.training import step as steps
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.schedule import make_schedule

from arrays import ArraySource, evaluation_batches, train_batches


Batch = dict[str, jax.Array]


def to_devices(batch: HostBatch, place: Sharding) -> Batch:
    """A batch on the devices."""
    return {name: jax.device_put(array, place) for name, array in batch.items()}


def measure(
    evaluate: Callable[..., Any], source: ArraySource, batch_size: int, place: Sharding
) -> dict[str, float]:
    """Loss and errors over all examples of a source.

    Args:
      evaluate: from a batch to the sums of `losses.sums`.
      source: the examples.
      batch_size: at a time.
      place: where its batches lie.
    """
    total: dict[str, Any] = {}
    for batch in evaluation_batches(source, batch_size):
        sums = evaluate(to_devices(batch, place))
        total = jax.tree.map(jnp.add, total, sums) if total else sums
    return losses.means({name: float(value) for name, value in total.items()})


def train(
    workdir: Path,
    *,
    initial: Callable[[], Any],
    abstract: Any,
    train_step: Callable[[Any, Batch], tuple[Any, Batch]],
    batches_from: Callable[[int], Generator[HostBatch]],
    place: Sharding,
    steps: int,
    steps_per_epoch: float,
    batch_size: int,
    validate: Callable[[Any], dict[str, float]] | None = None,
    enough: Callable[[Path], bool] = lambda workdir: False,
) -> Any:
    """Train from where the work directory stands, and give the state at the end.

    After every epoch it validates, saves, and asks whether that is enough. The folder
    gets `metrics.jsonl` and `checkpoints/`, as a run of `alexnet_jax.main` does.

    Args:
      workdir: of this run.
      initial: makes the state of step 0.
      abstract: shapes, types and places of the state.
      train_step: from state and batch to state and metrics: the sums of `losses.sums`
        and the learning rate.
      batches_from: the batches from a step on.
      place: where its batches lie.
      steps: to take at most.
      steps_per_epoch: of the run.
      batch_size: of the run.
      validate: from a state to losses and errors.
      enough: from the work directory to whether the run ends here.

    Raises:
      Interrupted: after saving, if Ctrl-C or SIGTERM asked to stop.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(
        workdir / "checkpoints", keep_latest=1, keep_best=0, clean=True
    )
    with checkpoints, Interrupts() as interrupts:
        start = max(checkpoints.steps, default=0)
        if start:
            start, state = checkpoints.restore_latest(abstract)
            if start >= steps or enough(workdir):
                return state
        else:
            state = initial()
        told = metric_writer.Report(
            workdir,
            start=start,
            steps=steps,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
        )

        def save(step: int) -> None:
            told.flush()
            checkpoints.save(step, state)

        with told, contextlib.closing(batches_from(start)) as source:
            for step in range(start + 1, steps + 1):
                begin = time.monotonic()
                batch = to_devices(next(source), place)
                waited = time.monotonic() - begin
                state, metrics = train_step(state, batch)
                told.train(step, metrics, waited)
                whole = int(step / steps_per_epoch) > int((step - 1) / steps_per_epoch)
                if whole or step == steps:
                    told.flush()
                    if validate is not None:
                        told.validation(step, validate(state))
                    save(step)
                    if enough(workdir):
                        break
                elif interrupts.received:
                    save(step)
                if interrupts.received:
                    raise Interrupted(interrupts.received)
            checkpoints.wait()
    return state


def fit(
    workdir: Path,
    dataset: Dataset,
    values: Mapping[str, Mapping[str, Any]],
    *,
    batch_size: int,
    epochs: float,
    seed: int,
    crop: int,
    crops: bool = False,
    flip: bool = False,
    validates: bool = True,
    enough: Callable[[Path], bool] = lambda workdir: False,
) -> steps.TrainState | None:
    """Train a network of the package from the values of a config's sections.

    Args:
      workdir: of this run; it goes on where it stands.
      dataset: in memory.
      values: the sections `model`, `optimizer` and `schedule`.
      batch_size: of a step.
      epochs: how long.
      seed: of everything random.
      crop: side of what the network sees.
      crops: whether crops are random.
      flip: whether they are mirrored at random.
      validates: whether the validation's errors are measured after every epoch.
      enough: see `train`.

    Returns:
      The last state; None if the loss was no longer finite.
    """
    source: Any = dataset.splits["train"]
    statistics = source.statistics
    per_epoch = len(source) / batch_size
    model = AlexNet(num_classes=len(dataset.class_names), **values["model"])
    mesh = meshes.one_device()
    schedule = make_schedule(steps_per_epoch=per_epoch, **values["schedule"])
    optimizer = momentum_sgd(schedule, **values["optimizer"])
    step = steps.make_train_step(model, optimizer, schedule, mesh, seed)
    evaluate = steps.make_eval_step(model, mesh, crop=crop, views=1)
    mean = statistics.centre(statistics.mean, crop)
    mean = jax.device_put(mean, meshes.replicated(mesh))
    place = NamedSharding(mesh, meshes.EXAMPLES)

    def validate(state: steps.TrainState) -> dict[str, float]:
        def sums(batch: Batch) -> Batch:
            return evaluate(state.params, batch, mean)[0]

        return measure(sums, dataset.splits["validation"], batch_size, place)

    try:
        return train(
            workdir,
            initial=lambda: steps.init_state(model, optimizer, mesh, crop, seed),
            abstract=steps.abstract_state(model, optimizer, mesh, crop),
            train_step=lambda state, batch: step(state, batch, mean),
            batches_from=partial(
                train_batches,
                source,
                statistics,
                batch_size=batch_size,
                seed=seed,
                crop=crop,
                crops=crops,
                flip=flip,
            ),
            place=place,
            steps=round(epochs * per_epoch),
            steps_per_epoch=per_epoch,
            batch_size=batch_size,
            validate=validate if validates else None,
            enough=enough,
        )
    except Diverged as error:
        progress.say(str(error))
        return None


def metrics_of(
    workdir: Path, split: str, last: int | None = None
) -> list[dict[str, Any]]:
    """A run's lines of one split, or the last so many of them."""
    found: list[dict[str, Any]] = []
    for text in reversed(
        (workdir / metrics_file.METRICS_FILE).read_text().splitlines()
    ):
        if len(found) == last:
            break
        line = json.loads(text)
        if line["split"] == split:
            found.append(line)
    return found[::-1]
