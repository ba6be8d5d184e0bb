"""Loss spikes: what counts as one, and a training that leaves them out.

A spike is a step whose loss is over `SPIKE` times the median of the `BEFORE` steps
before it, and over `OVER_LARGEST` times the largest of them: small losses of single
batches scatter by more than the first. All losses count for the steps after them, those
of spikes too, so that a loss which stays high is none for long.
"""

from types import ModuleType
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from alexnet_jax.training.optimizer_state import (
    SpikeState,
    rule_state,
    with_rule_state,
)


SPIKE, OVER_LARGEST, BEFORE = 2.0, 1.5, 100
# The name of a spike's factor: in metrics.jsonl, and in the metrics of a step that may
# be skipped.
LOSS_SPIKE = "loss_spike"

Number = TypeVar("Number", Array, np.ndarray)


def skipping_spikes(
    rule: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """A rule that leaves parameters and velocity as they are where the loss is a spike;
    the step counts, in the schedule too. Its `update` takes the `loss` as well: a sum
    over the batch.

    The losses before are in the state, so a resumed run skips the same steps. A loss
    that is not finite is none to skip: it ends the run.
    """

    def init(params: PyTree) -> SpikeState:
        return SpikeState(
            losses=jnp.full((BEFORE,), np.inf, jnp.float32),
            factor=jnp.zeros((), jnp.float32),
            rule=rule.init(params),
        )

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **given: Array
    ) -> tuple[PyTree, SpikeState]:
        loss = given["loss"]
        factor = spike_factor(state.losses, loss)
        moves, after = rule.update(updates, state.rule, params)
        # What adds nothing to any number, 0.0 and -0.0 among them.
        moves = jax.tree.map(lambda m: jnp.where(factor > 0, -0.0, m), moves)
        kept = with_rule_state(
            state.rule,
            rule_state(state.rule)._replace(step=rule_state(after).step),
        )
        after = jax.tree.map(lambda a, b: jnp.where(factor > 0, a, b), kept, after)
        losses = jnp.append(state.losses[1:], loss)
        return moves, SpikeState(losses, factor, after)

    return optax.GradientTransformationExtraArgs(init, update)


def spike_factor(
    before: Float[Number, "steps"], loss: Float[Number, ""], of: ModuleType = jnp
) -> Float[Number, ""]:
    """How many times the median of the losses before it a spike is; 0 for none.

    `of` is the module of the arrays: `jax.numpy` or `numpy`. Where there are fewer than
    `BEFORE`, they are filled up with infinity: then no loss is a spike.
    """
    median = of.sort(before)[len(before) // 2]
    highest = of.maximum(SPIKE * median, OVER_LARGEST * of.max(before))
    # A median of zero has no multiple.
    limits = of.finfo(of.float32)
    factor = of.minimum(loss / of.maximum(median, limits.tiny), limits.max)
    return of.where(of.isfinite(loss) & (loss > highest), factor, 0.0)
