"""Loss spikes: what counts as one, and a training that leaves them out.

A spike is a step whose loss is over `SPIKE` times the median of the `BEFORE` steps
before it, and over `OVER_LARGEST` times the largest of them: small losses of single
batches scatter by more than the first. All losses count for the steps after them, those
of spikes too, so that a loss which stays high is none for long.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from alexnet_jax.training.optimizer import SpikeState, rule_state, with_rule_state


SPIKE, OVER_LARGEST, BEFORE = 2.0, 1.5, 100
# The name of a spike's factor: in metrics.jsonl, and in the metrics of a step that may
# be skipped.
LOSS_SPIKE = "loss_spike"


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
            # No loss is a spike before there are as many as are compared.
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
    before: Float[Array, "steps"], loss: Float[Array, ""]
) -> Float[Array, ""]:
    """How many times the median of the losses before it a spike is; 0 for none."""
    median = jnp.sort(before)[len(before) // 2]
    highest = jnp.maximum(SPIKE * median, OVER_LARGEST * jnp.max(before))
    # A median of zero has no multiple.
    limits = jnp.finfo(jnp.float32)
    factor = jnp.minimum(loss / jnp.maximum(median, limits.tiny), limits.max)
    return jnp.where(jnp.isfinite(loss) & (loss > highest), factor, 0.0)
