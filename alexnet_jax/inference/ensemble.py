"""Loss and errors of trained networks on a split, alone or as an ensemble."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from alexnet_jax.data.loading import grain_datasets, prefetch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.inference.members import open_data, open_members, open_mesh
from alexnet_jax.inference.trained import TrainedNetwork
from alexnet_jax.runs.config import completed, section
from alexnet_jax.runtime import atomic, paths, progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import evaluation, losses
from alexnet_jax.training.step import Batch


class Outputs(NamedTuple):
    """A network's outputs for every example of a split.

    Attributes:
      log_probabilities: logarithm of the probabilities averaged over views.
      views: how many there were.
      logits: of every view, if they are kept.
    """

    labels: Int[np.ndarray, " examples"]
    log_probabilities: Float[np.ndarray, "examples classes"]
    views: int
    logits: Float[np.ndarray, "examples views classes"] | None


def evaluate(
    workdirs_given: Sequence[Path],
    *,
    views: int = 1,
    checkpoint: str | int = "best",
    split: str = "validation",
    mesh: tuple[int, int] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    data_path: str | None = None,
    dtype: str | None = None,
    predictions: Path | None = None,
    done: Callable[[dict[str, object]], None] = lambda result: None,
) -> dict[str, object]:
    """Measure one run, or several as an ensemble, on every example of a split once, but
    for images that training left out since they can't be read.

    Members and views count alike: their probabilities are averaged (section 4.1; the
    paper's ensembles likewise). Of an ensemble the result also has each member's own
    loss and errors, in `alone`, and those of its first one, two, ... members, in
    `first`. What is None is as in the first run's config.

    Args:
      workdirs_given: work directories.
      views: 1 for the centre, 10 for corners, centre and their flips; the flips are
        left out if training was without.
      checkpoint: `best`, `latest` or a step.
      split: of the data.
      mesh: devices along data and tower.
      batch_size: examples at a time.
      workers: processes that read images.
      data_path: where the data are.
      dtype: type of the computation, `float32` or `bfloat16`.
      predictions: a new file to write every example's outputs to; they are kept in
        memory for it, and once more to be written (2 GB each for a member and
        ImageNet's ten views). Without it an example takes 4 bytes a class and member.
      done: called with the result before that file is written, which may fail.

    Raises:
      InputError: if something is missing or doesn't fit together.
    """
    _check_arguments(batch_size, predictions)
    devices = open_mesh(workdirs_given, mesh)
    members = open_members(workdirs_given, checkpoint, views, dtype)
    config = members[0].config
    size = batch_size or section(completed(config), "eval")["batch_size"]
    meshes.check_batch(size, devices.shape["data"], "--batch_size")
    path = data_path or members[0].data_path
    opened = [open_data(member, path, members) for member in members]
    if workers is not None:
        opened = [dataclasses.replace(each, workers=workers) for each in opened]
    outputs_of = functools.partial(
        run_over,
        split=split,
        views=views,
        batch_size=size,
        mesh=devices,
        keep=predictions is not None,
    )
    outputs = [*map(outputs_of, members, opened)]
    measured = _measured(outputs, size)
    result: dict[str, object] = {
        "split": split,
        "examples": len(outputs[0].labels),
        "views": outputs[0].views,
        "members": len(members),
        **measured,
        "checkpoints": [f"{m.workdir}:{m.step}" for m in members],
        **({} if dtype is None else {"dtype": dtype}),
    }
    done(result)
    if predictions is not None:
        _write_predictions(predictions, opened[0], split, outputs, size)
    return result


def _check_arguments(batch_size: int | None, predictions: Path | None) -> None:
    """Raise an InputError for what can be seen before anything is opened."""
    if predictions is not None:
        paths.check_output(predictions, [".npz"], "--predictions")
    if batch_size is not None:
        meshes.check_batch(batch_size, 1, "--batch_size")


def run_over(
    member: TrainedNetwork,
    pipeline: Pipeline,
    *,
    split: str,
    views: int,
    batch_size: int,
    mesh: Mesh,
    keep: bool,
) -> Outputs:
    """A member's outputs for every example, in the data set's order.

    All views' logits are kept only if `keep` is set: ImageNet's of ten views are 2 GB.
    """
    examples = len(pipeline.dataset.splits[split])
    classes = len(pipeline.dataset.class_names)
    dataset = grain_datasets.evaluation_dataset(pipeline, split, batch_size=batch_size)
    step = member.evaluator(mesh, views)

    def averaged(batch: Batch) -> dict[str, Array]:
        # Averaged here, before the next batch is started: after it, the device would
        # compute that batch first, and the host would wait.
        _, logits = step(batch)
        return {"logits": logits, "mean": losses.log_mean_probabilities(logits)}

    # Whole from the beginning: joining the batches would need twice the memory.
    labels = np.empty(examples, np.int32)
    log_probabilities = np.empty((examples, classes), np.float32)
    logits, counted, done = None, 0, 0
    with (
        progress.counted(str(member.workdir), examples) as advance,
        prefetch.read(pipeline, dataset) as batches,
    ):
        for batch, results in evaluation.over_batches(averaged, batches, mesh):
            part = slice(done, done := done + len(batch["label"]))
            labels[part], log_probabilities[part] = batch["label"], results["mean"]
            counted = results["logits"].shape[1]
            if keep:
                if logits is None:
                    logits = np.empty((examples, counted, classes), np.float32)
                logits[part] = results["logits"]
            advance(len(batch["label"]))
    return Outputs(labels, log_probabilities, counted, logits)


def combine(
    members: Sequence[Outputs],
    batch_size: int,
    probabilities: Float[np.ndarray, "examples classes"] | None = None,
) -> dict[str, float]:
    """Loss and errors of the probabilities averaged over members, in parts, to need
    little memory on the device; `probabilities` is filled with these averages."""
    labels = members[0].labels
    totals: dict[str, float] = {}
    # Small arrays of the host, also where JAX_TRANSFER_GUARD is set.
    with jax.transfer_guard("allow"):
        for start in range(0, len(labels), batch_size):
            part = slice(start, start + batch_size)
            votes = [member.log_probabilities[part] for member in members]
            # The softmax of log-probabilities is these probabilities.
            log_mean = losses.log_mean_probabilities(
                jnp.asarray(np.stack(votes, axis=1))
            )
            mask = jnp.ones(len(log_mean), jnp.bool_)
            sums = losses.sums(log_mean, jnp.asarray(labels[part]), mask)
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + float(value)
            if probabilities is not None:
                probabilities[part] = np.exp(jax.device_get(log_mean))
    return losses.means(totals)


def _measured(outputs: Sequence[Outputs], batch_size: int) -> Mapping[str, object]:
    """Loss and errors as `evaluate` returns them."""
    if any(not np.array_equal(outputs[0].labels, o.labels) for o in outputs):
        raise InputError("the members read different examples and make no ensemble")
    together = combine(outputs, batch_size)
    if len(outputs) == 1:
        return together
    alone = [combine([member], batch_size) for member in outputs]
    first = [combine(outputs[:n], batch_size) for n in range(2, len(outputs))]
    return {**together, "alone": alone, "first": [alone[0], *first, together]}


def _write_predictions(
    path: Path,
    pipeline: Pipeline,
    split: str,
    outputs: Sequence[Outputs],
    batch_size: int,
) -> None:
    """Write every example's name, label, logits and averaged probabilities."""
    source = pipeline.dataset.splits[split]
    probabilities = np.empty_like(outputs[0].log_probabilities)
    combine(outputs, batch_size, probabilities)
    kept = [output.logits for output in outputs if output.logits is not None]
    with writing(path), atomic.replacing(path) as file:
        np.savez(
            file,
            name=np.asarray([source.name(index) for index in range(len(source))]),
            label=outputs[0].labels,
            logits=np.stack(kept, axis=1),
            mean_probabilities=probabilities,
        )
