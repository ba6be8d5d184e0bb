"""Averages of the parameters over steps: the network is the average, not what learns.

An exponential moving average, or the plain mean from a step on (stochastic weight
averaging, Izmailov et al. 2018).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from alexnet_jax.training.optimizer_state import AveragedState, Tree, rule_state


def part_of_moving_average(decay: float, step: Float[Array, ""]) -> Array:
    """Of an exponential moving average: step t keeps min(decay, (1 + t) / (10 + t)) of
    it, as in TensorFlow, so that initial values are soon forgotten."""
    return 1 - jnp.minimum(np.float32(decay), (1 + step) / (10 + step))


def part_of_mean(start: int, step: Float[Array, ""]) -> Array:
    """Of the plain mean from a step on: 1 up to it, then 1/2, 1/3 and so on."""
    return 1 / (1 + jnp.maximum(0, step - start))


def averaged(
    rule: optax.GradientTransformation,
    part: Callable[[Array], Array],
) -> optax.GradientTransformation:
    """A rule whose parameters are an average of those that learn.

    Those that learn are in the state, so that whatever opens a network finds the
    average. `part` says how much of it each step's parameters are, from the number of
    steps before.
    """

    def init(params: Tree) -> AveragedState:
        return AveragedState(params, rule.init(params))

    def update(
        updates: Tree, state: PyTree, params: Tree = None
    ) -> tuple[Tree, AveragedState]:
        own = part(rule_state(state).step.astype(jnp.float32))
        moves, inner = rule.update(updates, state.rule, state.learning)
        learning = optax.apply_updates(state.learning, moves)
        moves = jax.tree.map(lambda new, mean: own * (new - mean), learning, params)
        return moves, AveragedState(learning, inner)

    return optax.GradientTransformation(init, update)
