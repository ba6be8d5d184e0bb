"""The paper's update rule as an Optax chain, and what changes over a run (section 5).

    v <- momentum * v - decay * rate * w - rate * g
    w <- w + v

The rate stands inside the velocity, so that a drop of the rate leaves the old velocity
as it is. (In `optax.sgd` the rate multiplies the velocity, and a drop shrinks both.)
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from alexnet_jax.errors import InputError


Stages = tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """What changes with the step. Made by `make_schedule`, in steps.

    Attributes:
      rates: the learning rate after 0, 1, 2, ... drops.
      boundaries: the steps at which it drops, or None where validation decides.
      patience: validations without a better error before it drops, if they decide.
      bias_drops: how many of the drops biases take part in.
      layer_rates: of some layers, pairs of a step and the factor of the rate from then
        on.
      colour: pairs of a step and the coefficient of the colour shift from then on.
      warmup: steps over which the rate rises in a line to its full height.
      warmup_start: the part of the rate at which it begins.
    """

    rates: tuple[float, ...]
    boundaries: tuple[int, ...] | None
    patience: int
    bias_drops: int
    layer_rates: tuple[tuple[str, Stages], ...]
    colour: Stages
    warmup: int = 0
    warmup_start: float = 0.0

    def drops(self, state: "RateState") -> Int[Array, ""]:
        """How often the rate has dropped before the step that comes next."""
        if self.boundaries is None:
            return state.drops
        passed = [state.step >= boundary for boundary in self.boundaries]
        return sum((p.astype(jnp.int32) for p in passed), jnp.zeros((), jnp.int32))

    def rate(
        self, state: "RateState", layer: str = "", bias: bool = False
    ) -> Float[Array, ""]:
        """The rate of a layer at the step that comes next; of no layer, the base."""
        drops = self.drops(state)
        if bias:
            drops = jnp.minimum(drops, self.bias_drops)
        rate = jnp.asarray(self.rates, jnp.float32)[drops]
        if self.warmup:
            risen = jnp.minimum(1, state.step.astype(jnp.float32) / self.warmup)
            rate = rate * (self.warmup_start + (1 - self.warmup_start) * risen)
        return rate * _stage(dict(self.layer_rates).get(layer, ((0, 1.0),)), state.step)

    def colour_coefficient(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The coefficient of the colour shift at a step."""
        return _stage(self.colour, step)


def _stage(stages: Stages, step: Int[Array, ""]) -> Float[Array, ""]:
    value = jnp.asarray(stages[0][1], jnp.float32)
    for start, later in stages[1:]:
        value = jnp.where(step >= start, jnp.asarray(later, jnp.float32), value)
    return value


def make_schedule(
    *,
    steps_per_epoch: float,
    batch_size: int | None = None,
    kind: str = "plateau",
    learning_rate: float = 0.01,
    factor: float = 0.1,
    drops: int = 3,
    patience: int = 4,
    epochs: Sequence[float] = (),
    bias_drops: int | None = None,
    layer_rates: Mapping[str, Any] | None = None,
    colour_shift: float = 0.1,
    colour_epochs: float | None = None,
    reference_batch: int | None = None,
    warmup_epochs: float | None = None,
) -> Schedule:
    """The schedule of a run, from epochs to steps.

    Args:
      steps_per_epoch: of the run.
      batch_size: of the run, over all devices and processes.
      kind: `plateau` multiplies the rate by `factor` when the validation error stops
        improving, as the paper does; `steps` at fixed epochs, as the 2012 runs did by
        hand.
      learning_rate: at the start.
      factor: of every drop.
      drops: how often it may drop, for `plateau`.
      patience: validations in a row without a better error that make a plateau.
      epochs: when it drops, for `steps`.
      bias_drops: how many drops biases take part in (the 2012 runs: at most one); None
        for all.
      layer_rates: factors of a layer's rate: `{"conv1": 0.1}`, or in stages
        `{"conv1": ((67, 0.1), (72, 0.0))}` from these epochs on. Zero freezes it.
      colour_shift: coefficient of the colour shift (section 4.1).
      colour_epochs: the epoch from which the colour shift is off (the 2012 run: 67).
      reference_batch: the batch size for which `learning_rate` is meant; the rate grows
        in a line with the run's (the 2012 code's run of 256 with twice the rate; Goyal
        et al. 2017). None takes the rate as it is.
      warmup_epochs: over which the rate rises in a line, from the unscaled rate where
        there is a reference batch, else from zero (Goyal et al., section 2.2).

    Raises:
      InputError: on an unknown kind, a number out of range, or epochs that don't rise.
    """
    if kind not in ("plateau", "steps"):
        raise InputError(f"schedule.kind={kind!r} unknown; choose plateau or steps")
    if learning_rate < 0 or not 0 < factor <= 1:
        raise InputError(
            f"schedule.learning_rate={learning_rate} must not be negative and "
            f"schedule.factor={factor} must lie above 0 and up to 1"
        )
    for name, value in (("drops", drops), ("bias_drops", bias_drops or 0)):
        if value < 0:
            raise InputError(f"schedule.{name}={value} must not be negative")
    if list(epochs) != sorted(epochs):
        raise InputError(f"schedule.epochs={tuple(epochs)} must rise")

    warmup_epochs = warmup_epochs or 0.0
    if warmup_epochs < 0 or (reference_batch is not None and reference_batch < 1):
        raise InputError(
            f"schedule.warmup_epochs={warmup_epochs} must not be negative and "
            f"schedule.reference_batch={reference_batch} must be at least 1"
        )
    scale = batch_size / reference_batch if batch_size and reference_batch else 1.0

    def steps(epoch: float) -> int:
        return round(epoch * steps_per_epoch)

    number = len(epochs) if kind == "steps" else drops
    stages: dict[str, Stages] = {}
    for layer, rate in (layer_rates or {}).items():
        pairs = ((0, rate),) if isinstance(rate, int | float) else tuple(rate)
        pairs = tuple((steps(epoch), float(value)) for epoch, value in pairs)
        stages[layer] = pairs if pairs[0][0] == 0 else ((0, 1.0), *pairs)
    colour: Stages = ((0, colour_shift),)
    if colour_epochs is not None:
        colour = (*colour, (steps(colour_epochs), 0.0))
    return Schedule(
        rates=tuple(scale * learning_rate * factor**drop for drop in range(number + 1)),
        boundaries=tuple(steps(e) for e in epochs) if kind == "steps" else None,
        patience=patience,
        bias_drops=number if bias_drops is None else bias_drops,
        layer_rates=tuple(stages.items()),
        colour=colour,
        warmup=steps(warmup_epochs),
        warmup_start=min(1.0, 1 / scale) if reference_batch else 0.0,
    )


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
      InputError: at `init`, if a layer named here or in the schedule isn't there.
    """
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
            value = schedule.rate(state, layer, bias)
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
