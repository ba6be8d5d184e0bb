"""The paper's update rule in Optax, and the plateau rule (section 5).

    v <- momentum * v - decay * rate * w - rate * g
    w <- w + v

The learning rate is inside the velocity, so that a drop of the rate leaves the old
velocity as it is. (In `optax.sgd` the rate multiplies the velocity, and a drop shrinks
both.) So Optax's parts come in this order: decay, rate, momentum.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array, Float, PyTree

from alexnet_jax.runtime.errors import InputError, check_number
from alexnet_jax.training.averaging import (
    averaged,
    part_of_mean,
    part_of_moving_average,
)
from alexnet_jax.training.optimizer_state import (
    RuleState,
    Tree,
    rule_state,
    with_rule_state,
)
from alexnet_jax.training.schedule import Schedule


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
        decay a step (0.999, say; at the start less). The average is what is validated
        and saved as the network.
      decoupled_decay: takes weight decay out of the velocity (Loshchilov and Hutter
        2019): each step takes rate * decay of a parameter from it, as most code of
        AdamW does. The paper multiplies the decay by the schedule's factor alone, and
        not by the learning rate at its start. A decay that is 1 / (1 - momentum) times
        as large has the same effect in the long run.

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
    if average is not None and schedule.swa is not None:
        raise InputError(
            "optimizer.average and schedule.swa_epochs both say which mean of the "
            "parameters is the network; leave one of them out"
        )
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
    if average is not None:
        return averaged(rule, partial(part_of_moving_average, average))
    if schedule.swa is not None:
        return averaged(rule, partial(part_of_mean, schedule.swa))
    return rule


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


def layer_and_kind(path: KeyPath) -> tuple[str, bool]:
    """The layer of a parameter by its path in the tree, and whether it is a bias."""
    layer, kind = (key.key for key in path[:2])
    return layer, kind == "bias"


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
PRESETS: dict[str, dict[str, object]] = {
    # The paper's text has one rate and one decay for all parameters (section 5).
    "paper": {"bias_rate": 1.0, "bias_weight_decay": 0.0005},
    "owt": {"bias_rate": 1.0, "bias_weight_decay": 0.0005},
    "small": {"bias_rate": 1.0, "weight_decay": 0.0},
    "four_layers": {"bias_rate": 1.0, "weight_decay": 0.0},
    "four_layers_norm": {"bias_rate": 1.0, "weight_decay": 0.0},
    # `wc` of the 2012 code's examples: 0.004, but for these layers.
    "cifar_80sec": {"weight_decay": 0.004, "layer_decays": {"fc4": 7.5, "fc5": 7.5}},
    "cifar_19pct": {"weight_decay": 0.004, "layer_decays": {"fc4": 750.0}},
    "cifar_13pct": {
        "weight_decay": 0.004,
        "layer_decays": {"conv1": 0.0, "conv2": 0.0},
    },
    "cifar_11pct": {
        "weight_decay": 0.004,
        "layer_decays": {"conv1": 0.0, "conv2": 0.0, "fc5": 2.5},
    },
}
