"""The paper's update rule in Optax, and the plateau rule (section 5).

    v <- momentum * v - decay * rate * w - rate * g
    w <- w + v

The learning rate is inside the velocity, so that a drop of the rate leaves the old
velocity as it is. (In `optax.sgd` the rate multiplies the velocity, and a drop shrinks
both.) So Optax's parts come in this order: decay, rate, momentum.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array, Float, Int, PyTree

from alexnet_jax.runtime.errors import InputError, check_number
from alexnet_jax.training.schedule import Schedule


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
    """State of `averaged`: the parameters that learn, and the rule's own state."""

    learning: Tree
    rule: PyTree


class SpikeState(NamedTuple):
    """State of `spikes.skipping_spikes`: the sum of the loss over each of the last
    batches, oldest first; how many times their median the last step's was where it was
    skipped, else 0; the rule's own state."""

    losses: Float[Array, "steps"]
    factor: Float[Array, ""]
    rule: PyTree


def momentum_sgd(
    schedule: Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0005,
    bias_weight_decay: float = 0.0,
    bias_rate: float = 2.0,
    layer_decays: Mapping[str, float] | None = None,
    trust_coefficient: float | None = None,
    average: float | None = None,
    decoupled_decay: bool = False,
) -> optax.GradientTransformation:
    """The update rule of section 5, with the groups of the 2012 code.

    A layer whose rate is zero is frozen completely: no decay, no move by the velocity
    that it has left.

    Args:
      schedule: gives the rate of every layer and group at every step.
      momentum: the fraction of the velocity that is kept.
      weight_decay: weight decay of kernels.
      bias_weight_decay: weight decay of biases; none in the 2012 code.
      bias_rate: factor of the biases' rate; 2 in the 2012 code.
      layer_decays: factors of single layers' decay.
      trust_coefficient: turns on layer-wise rates for very large batches (LARS, You et
        al. 2017; 0.001 there): a kernel's gradient, decay included, is scaled to this
        fraction of the kernel's own norm, tower by tower. Rates are then of the order
        of 1 to 10. Biases are left alone.
      average: turns on an exponential moving average of the parameters, with this
        decay a step (0.999, say; at the start less, see `averaged`). The average is
        what is validated and saved as the network.
      decoupled_decay: takes weight decay out of the velocity (Loshchilov and Hutter
        2019): each step takes rate * decay of a parameter from it. A decay that is
        1 / (1 - momentum) times as large has the same effect in the long run.

    Raises:
      InputError: if a number is out of range; at `init`, if a layer named here or in
        the schedule does not exist.
    """
    check_number("optimizer.momentum", momentum, below=1)
    for name, value in (
        ("weight_decay", weight_decay),
        ("bias_weight_decay", bias_weight_decay),
        ("bias_rate", bias_rate),
        ("trust_coefficient", trust_coefficient or 0),
    ):
        check_number(f"optimizer.{name}", value)
    check_number("optimizer.average", average or 0, below=1)
    factors = dict(layer_decays or {})
    for layer, factor in factors.items():
        check_number(f"optimizer.layer_decays.{layer}", factor)

    def decay(layer: str, bias: bool) -> float:
        value = bias_weight_decay if bias else weight_decay
        return value * factors.get(layer, 1.0)

    named = {*factors, *(layer for layer, _ in schedule.layer_rates)}
    trust = [] if trust_coefficient is None else [_trust_ratio(trust_coefficient)]
    coupled = [] if decoupled_decay else [optax.stateless(partial(_add_decay, decay))]
    own_decay = decay if decoupled_decay else None
    rule = optax.chain(
        *coupled, *trust, _momentum(schedule, momentum, bias_rate, named, own_decay)
    )
    return rule if average is None else averaged(rule, average)


def _add_decay(
    decay: Callable[[str, bool], float], updates: Tree, params: Tree
) -> Tree:
    """`optax.add_decayed_weights` with a decay for every layer and group."""

    def add(path: KeyPath, g: Array, w: Array) -> Array:
        value = decay(*layer_and_kind(path))
        return g + value * w if value else g

    return jax.tree_util.tree_map_with_path(add, updates, params)


def _trust_ratio(coefficient: float) -> optax.GradientTransformation:
    """`optax.scale_by_trust_ratio` for kernels, one tower at a time."""
    rule = optax.scale_by_trust_ratio(trust_coefficient=coefficient)

    def one_tower(g: Array, w: Array) -> PyTree:
        return rule.update(g, rule.init(w), w)[0]

    def scale(path: KeyPath, g: Array, w: Array) -> Array:
        _, bias = layer_and_kind(path)
        return g if bias else jax.vmap(one_tower)(g, w)

    return optax.stateless(partial(jax.tree_util.tree_map_with_path, scale))


def _momentum(
    schedule: Schedule,
    momentum: float,
    bias_rate: float,
    named: set[str],
    decay: Callable[[str, bool], float] | None = None,
) -> optax.GradientTransformation:
    """Rate, then momentum by `optax.trace`, except in frozen layers; then a decay.

    The rates are computed here, since `optax.scale_by_learning_rate` sees a count
    alone, and these depend on the layer and on the plateaus as well.
    """
    trace = optax.trace(decay=momentum)

    def init(params: Tree) -> RuleState:
        if unknown := sorted(named - set(params)):
            raise InputError(
                f"a rate or decay is set for {', '.join(unknown)}, but the layers are "
                f"{', '.join(sorted(params))}"
            )
        return RuleState(
            step=jnp.zeros((), jnp.int32),
            best_error=jnp.full((), np.inf, jnp.float32),
            validations_since_best=jnp.zeros((), jnp.int32),
            drops=jnp.zeros((), jnp.int32),
            velocity=jax.tree.map(jnp.zeros_like, params),
        )

    def update(
        updates: Tree, state: PyTree, params: Tree = None
    ) -> tuple[Tree, RuleState]:
        def rate(path: KeyPath, _: Array) -> Array:
            layer, bias = layer_and_kind(path)
            value = schedule.rate(state.step, state.drops, layer, bias)
            return value * bias_rate if bias else value

        def moving(rate: Array, moved: Array, frozen: Array | float) -> Array:
            return jnp.where(rate > 0, moved, frozen)

        rates = jax.tree_util.tree_map_with_path(rate, updates)
        scaled = jax.tree.map(lambda rate, g: -rate * g, rates, updates)
        moved, _ = trace.update(scaled, optax.TraceState(state.velocity))
        velocity = jax.tree.map(moving, rates, moved, state.velocity)
        moves = jax.tree.map(partial(moving, frozen=0.0), rates, velocity)
        if decay is not None:
            decayed = _add_decay(decay, jax.tree.map(jnp.zeros_like, moves), params)
            moves = jax.tree.map(lambda m, rate, d: m - rate * d, moves, rates, decayed)
        return moves, state._replace(step=state.step + 1, velocity=velocity)

    return optax.GradientTransformation(init, update)


def averaged(
    rule: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """A rule whose parameters are the moving average of those that learn.

    Those that learn are in the state, so that whatever opens a network finds the
    average. Step t keeps min(decay, (1 + t) / (10 + t)) of it, as TensorFlow's moving
    averages do, so that initial values are soon forgotten.
    """

    def init(params: Tree) -> AveragedState:
        return AveragedState(params, rule.init(params))

    def update(
        updates: Tree, state: PyTree, params: Tree = None
    ) -> tuple[Tree, AveragedState]:
        step = rule_state(state).step.astype(jnp.float32)
        part = 1 - jnp.minimum(np.float32(decay), (1 + step) / (10 + step))
        moves, inner = rule.update(updates, state.rule, state.learning)
        learning = optax.apply_updates(state.learning, moves)
        moves = jax.tree.map(lambda new, mean: part * (new - mean), learning, params)
        return moves, AveragedState(learning, inner)

    return optax.GradientTransformation(init, update)


def learning_params(params: Tree, opt_state: PyTree) -> Tree:
    """The parameters that gradients are taken at, of a state's; see `averaged`."""
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


def layer_and_kind(path: KeyPath) -> tuple[str, bool]:
    """The layer of a parameter by its path in the tree, and whether it is a bias."""
    layer, kind = (key.key for key in path[:2])
    return layer, kind == "bias"


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


def after_validation(
    schedule: Schedule, opt_state: PyTree, error: Float[Array | np.ndarray, ""]
) -> PyTree:
    """The state after a validation: where its error stops improving, the rate drops.

    Args:
      schedule: of kind `plateau`; a schedule of another kind does not depend on it.
      opt_state: the optimizer's state.
      error: top-1 validation error, a fraction.
    """
    state = rule_state(opt_state)
    better = error < state.best_error
    waited = jnp.where(better, 0, state.validations_since_best + 1)
    drop = (waited >= schedule.patience) & (state.drops < len(schedule.rates) - 1)
    state = state._replace(
        best_error=jnp.where(better, error, state.best_error),
        validations_since_best=jnp.where(drop, 0, waited),
        drops=state.drops + drop.astype(jnp.int32),
    )
    return with_rule_state(opt_state, state)


# What presets change of the defaults above.
PRESETS: dict[str, dict[str, float]] = {
    # The paper's text has one rate and one decay for all parameters (section 5).
    "paper": {"bias_rate": 1.0, "bias_weight_decay": 0.0005},
    "owt": {"bias_rate": 1.0, "bias_weight_decay": 0.0005},
    "small": {"bias_rate": 1.0, "weight_decay": 0.0},
    "four_layers": {"bias_rate": 1.0, "weight_decay": 0.0},
    "four_layers_norm": {"bias_rate": 1.0, "weight_decay": 0.0},
}
