"""Ends a run whose loss or parameters are no longer finite."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from alexnet_jax.runtime.errors import Diverged
from alexnet_jax.training.step import TrainState


@jax.jit
def is_finite(params: PyTree) -> Array:
    """Whether every number of a tree of arrays is finite."""
    arrays = jax.tree.leaves(params)
    return jnp.all(jnp.stack([jnp.isfinite(array).all() for array in arrays]))


def check_state(step: int, state: TrainState) -> None:
    """Raise Diverged if the parameters are not finite: a gradient may have overflowed
    where the loss did not. A velocity that is not finite has made them so as well."""
    if not jax.device_get(is_finite(state.params)):
        raise Diverged(step, f"step {step}: the state is no longer finite")


def check_loss(loss: float, step: int, what: str) -> None:
    """Raise Diverged, beginning with `what`, if the loss of a step is not finite."""
    if not math.isfinite(loss):
        raise Diverged(step, f"step {step}{what} is {loss}")
