"""What changes over a run: the learning rate and the colour shift (section 5)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from alexnet_jax.runtime.errors import InputError, check_number


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

    def drops(self, step: Int[Array, ""], plateaus: Int[Array, ""]) -> Int[Array, ""]:
        """How often the rate has dropped before a step, after so many plateaus."""
        if self.boundaries is None:
            return plateaus
        passed = [step >= boundary for boundary in self.boundaries]
        return sum((p.astype(jnp.int32) for p in passed), jnp.zeros((), jnp.int32))

    def rate(
        self,
        step: Int[Array, ""],
        plateaus: Int[Array, ""],
        layer: str = "",
        bias: bool = False,
    ) -> Float[Array, ""]:
        """The rate of a layer at a step, after so many plateaus; of no layer, the base.

        Plateaus count in a schedule that waits for them, and in no other.
        """
        drops = self.drops(step, plateaus)
        if bias:
            drops = jnp.minimum(drops, self.bias_drops)
        rate = jnp.asarray(self.rates, jnp.float32)[drops]
        if self.warmup:
            risen = jnp.minimum(1, step.astype(jnp.float32) / self.warmup)
            rate = rate * (self.warmup_start + (1 - self.warmup_start) * risen)
        return rate * _stage(dict(self.layer_rates).get(layer, ((0, 1.0),)), step)

    def colour_coefficient(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The coefficient of the colour shift at a step."""
        return _stage(self.colour, step)


def _stage(stages: Stages, step: Int[Array, ""]) -> Float[Array, ""]:
    value = jnp.asarray(stages[0][1], jnp.float32)
    for start, later in stages[1:]:
        value = jnp.where(step >= start, jnp.asarray(later, jnp.float32), value)
    return value


def _epochs_of(layer: str, rate: Any) -> tuple[tuple[float, float], ...]:
    """A layer's entry in `layer_rates` as pairs of an epoch and a factor."""
    pairs = ((0, rate),) if isinstance(rate, int | float) else rate
    try:
        pairs = tuple((float(epoch), float(factor)) for epoch, factor in pairs)
    except (TypeError, ValueError):
        pairs = ()
    epochs = [epoch for epoch, _ in pairs]
    if not pairs or epochs != sorted(epochs) or epochs[0] < 0:
        raise InputError(
            f"schedule.layer_rates of {layer}, {rate!r}, must be a factor, or pairs of "
            "an epoch and a factor in the order of epochs: ((67, 0.1), (72, 0.0))"
        )
    return pairs


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
      InputError: on an unknown kind, a number out of range, epochs that don't rise, or
        a layer's rates that are no pairs.
    """
    if kind not in ("plateau", "steps"):
        raise InputError(f"schedule.kind={kind!r} unknown; choose plateau or steps")
    warmup_epochs = warmup_epochs or 0.0
    for name, value in (
        ("learning_rate", learning_rate),
        ("drops", drops),
        ("bias_drops", bias_drops or 0),
        ("colour_shift", colour_shift),
        ("colour_epochs", colour_epochs or 0),
        ("warmup_epochs", warmup_epochs),
    ):
        check_number(f"schedule.{name}", value)
    check_number("schedule.patience", patience, least=1)
    if reference_batch is not None:
        check_number("schedule.reference_batch", reference_batch, least=1)
    if not 0 < factor <= 1:
        raise InputError(f"schedule.factor={factor} must lie above 0 and up to 1")
    for epoch in epochs:
        check_number("a number of schedule.epochs", epoch)
    if list(epochs) != sorted(epochs):
        raise InputError(f"schedule.epochs={tuple(epochs)} must rise")
    scale = batch_size / reference_batch if batch_size and reference_batch else 1.0

    def steps(epoch: float) -> int:
        return round(epoch * steps_per_epoch)

    number = len(epochs) if kind == "steps" else drops
    stages: dict[str, Stages] = {}
    for layer, rate in (layer_rates or {}).items():
        pairs = tuple((steps(e), factor) for e, factor in _epochs_of(layer, rate))
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


# What presets change of the defaults above; the others begin with those of `code2012`.
PRESETS: dict[str, dict[str, float]] = {
    # The log of run 145 ends with the biases' rate as it was; that of its twin on the
    # set of 2010 ends with the rate after one drop.
    "code2012": {"bias_drops": 1},
    "paper": {"bias_drops": 3},
    # Caffe's solver drops the rate of all parameters alike, and shifts no colours.
    "caffe": {"bias_drops": 4, "colour_shift": 0.0},
    "caffenet": {"bias_drops": 4, "colour_shift": 0.0},
    "owt": {"bias_drops": 3, "colour_shift": 0.0},
    "small": {"bias_drops": 3, "colour_shift": 0.0},
    "four_layers": {"bias_drops": 3, "colour_shift": 0.0},
    "four_layers_norm": {"bias_drops": 3, "colour_shift": 0.0},
    # Section 4.1, the second form of augmentation.
    "no_colour": {"colour_shift": 0.0},
}
