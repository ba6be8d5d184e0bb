"""What trained networks make of a split, and the mean of their probabilities."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.data.loading import prefetch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.inference.trained import Member
from alexnet_jax.runtime import progress
from alexnet_jax.training import losses


class Outputs(NamedTuple):
    """What a member makes of a split.

    Attributes:
      labels: of the examples.
      log_probabilities: logarithm of the probabilities averaged over views.
      views: how many there were.
      logits: of every view, if they are kept.
    """

    labels: Int[np.ndarray, " examples"]
    log_probabilities: Float[np.ndarray, "examples classes"]
    views: int
    logits: Float[np.ndarray, "examples views classes"] | None


def run_over(
    member: Member,
    pipeline: Pipeline,
    *,
    split: str,
    views: int,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    keep_logits: bool,
) -> Outputs:
    """A member's outputs for every example, in the data set's order.

    Views are averaged batch by batch: ImageNet's logits of ten views are 2 GB, which
    only `keep_logits` keeps.
    """
    dataset = pipelines.evaluation_dataset(pipeline, split, batch_size=batch_size)
    step = member.evaluator(mesh, views)
    labels, log_probabilities, logits = [], [], []
    counted = 0
    total = len(pipeline.dataset.splits[split])
    with (
        progress.counted(str(member.workdir), total) as advance,
        prefetch.read(pipeline, dataset) as batches,
    ):
        for batch in batches:
            _, of_batch = step(meshes.to_devices(batch, mesh))
            votes = jax.device_get(of_batch)[batch["mask"]]
            counted = votes.shape[1]
            labels.append(batch["label"][batch["mask"]])
            means = losses.log_mean_probabilities(jnp.asarray(votes))
            log_probabilities.append(jax.device_get(means))
            if keep_logits:
                logits.append(votes)
            advance(len(votes))
    return Outputs(
        np.concatenate(labels),
        np.concatenate(log_probabilities),
        counted,
        np.concatenate(logits) if keep_logits else None,
    )


def combine(
    members: Sequence[Outputs], batch_size: int
) -> tuple[dict[str, float], Float[np.ndarray, "examples classes"]]:
    """Loss and errors of the probabilities averaged over members, and those.

    Goes through the examples in parts, to need little memory on the device.
    """
    labels = members[0].labels
    totals: dict[str, float] = {}
    probabilities = []
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        votes = [member.log_probabilities[part] for member in members]
        # The softmax of log-probabilities is these probabilities.
        log_mean = losses.log_mean_probabilities(jnp.asarray(np.stack(votes, axis=1)))
        mask = jnp.ones(len(log_mean), jnp.bool_)
        for name, value in losses.sums(
            log_mean, jnp.asarray(labels[part]), mask
        ).items():
            totals[name] = totals.get(name, 0.0) + float(value)
        probabilities.append(np.exp(jax.device_get(log_mean)))
    return losses.means(totals), np.concatenate(probabilities)
