"""The paper's update rule as an Optax chain, and the plateau rule (section 5).

    v <- momentum * v - decay * rate * w - rate * g
    w <- w + v

The rate stands inside the velocity, so that a drop of the rate leaves the old velocity
as it is. (In `optax.sgd` the rate multiplies the velocity, and a drop shrinks both.)
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from alexnet_jax.runtime.errors import InputError, check_number
from alexnet_jax.training.schedule import Schedule


class RateState(NamedTuple):
    """State of the update rule: its step, the plateau's, the velocity."""

    step: Int[Array, ""]
    best_error: Float[Array, ""]
    validations_since_best: Int[Array, ""]
    drops: Int[Array, ""]
    velocity: Any


def momentum_sgd(
    schedule: Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0005,
    bias_weight_decay: float = 0.0,
    bias_rate: float = 2.0,
    layer_decays: Mapping[str, float] | None = None,
    trust_coefficient: float | None = None,
) -> optax.GradientTransformation:
    """The update rule of section 5, with the groups of the 2012 code.

    Parameters are `{layer: {"kernel": ..., "bias": ...}}`. A layer whose rate is zero
    is frozen wholly: no decay, no move by what velocity is left.

    Args:
      schedule: gives the rate of every layer and group at every step.
      momentum: the part of the velocity that stays.
      weight_decay: of kernels.
      bias_weight_decay: of biases; none in the 2012 code.
      bias_rate: factor of the biases' rate; 2 in the 2012 code.
      layer_decays: factors of single layers' decay.
      trust_coefficient: turns on layer-wise rates for very large batches (LARS, You et
        al. 2017; 0.001 there): a kernel's gradient, decay included, is scaled to this
        part of the kernel's own norm, tower by tower. Rates are then of the order of 1
        to 10. Biases are left alone.

    Raises:
      InputError: if a number is out of range; at `init`, if a layer named here or in
        the schedule isn't there.
    """
    check_number("optimizer.momentum", momentum, below=1)
    for name, value in (
        ("weight_decay", weight_decay),
        ("bias_weight_decay", bias_weight_decay),
        ("bias_rate", bias_rate),
        ("trust_coefficient", trust_coefficient or 0),
    ):
        check_number(f"optimizer.{name}", value)
    decays = dict(layer_decays or {})

    def decay(path: Sequence[Any], g: Array, w: Array) -> Array:
        layer, bias = _place(path)
        value = (bias_weight_decay if bias else weight_decay) * decays.get(layer, 1.0)
        return g + value * w if value else g

    def decay_update(updates: Any, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(decay, updates, params)

    def trust_update(updates: Any, params: Any) -> Any:
        assert trust_coefficient is not None
        rule: Any = optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient)

        def scale(path: Sequence[Any], g: Array, w: Array) -> Array:
            if _place(path)[1]:
                return g
            return jax.vmap(lambda g, w: rule.update(g, rule.init(w), w)[0])(g, w)

        return jax.tree_util.tree_map_with_path(scale, updates, params)

    def init(params: Any) -> RateState:
        named = {*decays, *(layer for layer, _ in schedule.layer_rates)}
        if unknown := sorted(named - set(params)):
            raise InputError(
                f"a rate or decay is set for {', '.join(unknown)}, but the layers are "
                f"{', '.join(sorted(params))}"
            )
        return RateState(
            step=jnp.zeros((), jnp.int32),
            best_error=jnp.full((), np.inf, jnp.float32),
            validations_since_best=jnp.zeros((), jnp.int32),
            drops=jnp.zeros((), jnp.int32),
            velocity=jax.tree.map(jnp.zeros_like, params),
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, RateState]:
        del params

        def rate(path: Sequence[Any]) -> Array:
            layer, bias = _place(path)
            value = schedule.rate(state.step, state.drops, layer, bias)
            return value * bias_rate if bias else value

        def accelerate(path: Sequence[Any], g: Array, v: Array) -> Array:
            return jnp.where(rate(path) > 0, momentum * v - rate(path) * g, v)

        def move(path: Sequence[Any], v: Array) -> Array:
            return jnp.where(rate(path) > 0, v, 0)

        with_path = jax.tree_util.tree_map_with_path
        velocity = with_path(accelerate, updates, state.velocity)
        moves = with_path(move, velocity)
        return moves, state._replace(step=state.step + 1, velocity=velocity)

    before = [optax.stateless(decay_update)]
    if trust_coefficient is not None:
        before.append(optax.stateless(trust_update))
    return optax.chain(*before, optax.GradientTransformation(init, update))


def _place(path: Sequence[Any]) -> tuple[str, bool]:
    layer, kind = (key.key for key in path)
    return layer, kind == "bias"


def rate_state(opt_state: Any) -> RateState:
    """The update rule's own state within the chain's."""
    return opt_state[-1]


def after_validation(schedule: Schedule, opt_state: Any, error: Array) -> Any:
    """The state after a validation: where its error stops improving, the rate drops.

    Args:
      schedule: of kind `plateau`; of another kind the rate takes no notice.
      opt_state: the chain's state.
      error: the validation's, a fraction.
    """
    state = rate_state(opt_state)
    better = error < state.best_error
    waited = jnp.where(better, 0, state.validations_since_best + 1)
    drop = (waited >= schedule.patience) & (state.drops < len(schedule.rates) - 1)
    state = state._replace(
        best_error=jnp.where(better, error, state.best_error),
        validations_since_best=jnp.where(drop, 0, waited),
        drops=state.drops + drop.astype(jnp.int32),
    )
    return (*opt_state[:-1], state)


# What presets change of the defaults above.
PRESETS: dict[str, dict[str, float]] = {
    # The paper's text has one rate and one decay for all parameters (section 5).
    "paper": {"bias_rate": 1.0, "bias_weight_decay": 0.0005},
    "owt": {"bias_rate": 1.0, "bias_weight_decay": 0.0005},
    "small": {"bias_rate": 1.0, "weight_decay": 0.0},
    "four_layers": {"bias_rate": 1.0, "weight_decay": 0.0},
    "four_layers_norm": {"bias_rate": 1.0, "weight_decay": 0.0},
}
