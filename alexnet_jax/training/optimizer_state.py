"""The optimizer's state: the paper's rule at its core, and what may be around it.

The chain of `optimizer.momentum_sgd` ends in a `RuleState`. An average of the
parameters (`averaging`) is around the chain, and what skips spikes (`spikes`) around
both.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


# A tree of parameters, `{layer: {"kernel": array, "bias": array}}`, or shaped like one.
Tree = PyTree


class RuleState(NamedTuple):
    """State of the update rule: its step, the plateau rule's, the velocity."""

    step: Int[Array, ""]
    best_error: Float[Array, ""]
    validations_since_best: Int[Array, ""]
    drops: Int[Array, ""]
    velocity: Tree


class AveragedState(NamedTuple):
    """State of `averaging.averaged`: the parameters that learn, and the rule's own."""

    learning: Tree
    rule: PyTree


class SpikeState(NamedTuple):
    """State of `spikes.skipping_spikes`: the sum of the loss over each of the last
    batches, oldest first; how many times their median the last step's was where it was
    skipped, else 0; the rule's own state."""

    losses: Float[Array, "steps"]
    factor: Float[Array, ""]
    rule: PyTree


def rule_state(opt_state: PyTree) -> RuleState:
    """The update rule's own state within the optimizer's."""
    if isinstance(opt_state, AveragedState | SpikeState):
        return rule_state(opt_state.rule)
    return opt_state[-1]


def with_rule_state(opt_state: PyTree, state: RuleState) -> PyTree:
    """The optimizer's state with another of the update rule within it."""
    if isinstance(opt_state, AveragedState | SpikeState):
        return opt_state._replace(rule=with_rule_state(opt_state.rule, state))
    return (*opt_state[:-1], state)


def learning_params(params: Tree, opt_state: PyTree) -> Tree:
    """The parameters that gradients are taken at: those of the training state, or those
    behind an average."""
    if isinstance(opt_state, SpikeState):
        opt_state = opt_state.rule
    return opt_state.learning if isinstance(opt_state, AveragedState) else params


def begin_with(params: Tree, opt_state: PyTree) -> PyTree:
    """The first step's state for other initial values than it was made with."""
    if isinstance(opt_state, SpikeState):
        return opt_state._replace(rule=begin_with(params, opt_state.rule))
    if not isinstance(opt_state, AveragedState):
        return opt_state
    # Copies, since a step takes the memory of both.
    return opt_state._replace(learning=jax.tree.map(jnp.copy, params))
