"""What changes over a run: the learning rate and the colour shift (section 5)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from alexnet_jax.runtime.errors import InputError, check_choice, check_number


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
      warmup: steps over which the rate rises linearly to its full height.
      warmup_start: the fraction of the rate at which it begins.
      cosine: the step at which the rate has fallen to zero along half a cosine, which
        begins after the warm-up; 0 for a rate that only drops.
      swa: the step from which on the network is the mean of the parameters after every
        step; None for the parameters themselves.
    """

    rates: tuple[float, ...]
    boundaries: tuple[int, ...] | None
    patience: int
    bias_drops: int
    layer_rates: tuple[tuple[str, Stages], ...]
    colour: Stages
    warmup: int = 0
    warmup_start: float = 0.0
    cosine: int = 0
    swa: int | None = None

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
        if self.cosine:
            past = jnp.maximum(0, step.astype(jnp.float32) - self.warmup)
            part = jnp.minimum(1, past / max(1, self.cosine - self.warmup))
            rate = rate * (0.5 + 0.5 * jnp.cos(np.float32(np.pi) * part))
        return rate * _stage(dict(self.layer_rates).get(layer, ((0, 1.0),)), step)

    def colour_coefficient(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The coefficient of the colour shift at a step."""
        return _stage(self.colour, step)


def _stage(stages: Stages, step: Int[Array, ""]) -> Float[Array, ""]:
    value = jnp.asarray(stages[0][1], jnp.float32)
    for start, later in stages[1:]:
        value = jnp.where(step >= start, jnp.asarray(later, jnp.float32), value)
    return value


def _layer_stages(layer: str, rate: object, steps: Callable[[float], int]) -> Stages:
    """A layer's entry in `layer_rates`, from epochs to steps."""
    if isinstance(rate, int | float):
        rate = ((0, rate),)
    pairs = rate if isinstance(rate, Sequence) else ()
    try:
        by_epoch = [(float(epoch), float(factor)) for epoch, factor in pairs]
    except (TypeError, ValueError):
        by_epoch = []
    epochs = [epoch for epoch, _ in by_epoch]
    if not epochs or epochs != sorted(epochs) or epochs[0] < 0:
        raise InputError(
            f"schedule.layer_rates of {layer}, {rate!r}, must be a factor, or pairs of "
            "an epoch and a factor in the order of epochs: ((67, 0.1), (72, 0.0))"
        )
    for epoch, factor in by_epoch:
        check_number(f"an epoch of schedule.layer_rates.{layer}", epoch)
        check_number(f"a factor of schedule.layer_rates.{layer}", factor)
    stages = tuple((steps(epoch), factor) for epoch, factor in by_epoch)
    return stages if stages[0][0] == 0 else ((0, 1.0), *stages)


def _check_ranges(
    epochs: Sequence[float], factor: float, **not_negative: float | None
) -> None:
    for name, value in not_negative.items():
        check_number(f"schedule.{name}", value or 0)
    if not 0 < factor <= 1:
        raise InputError(f"schedule.factor={factor} must lie above 0 and up to 1")
    for epoch in epochs:
        check_number("a number of schedule.epochs", epoch)
    if list(epochs) != sorted(epochs):
        raise InputError(f"schedule.epochs={tuple(epochs)} must rise")


def make_schedule(
    *,
    steps_per_epoch: float,
    batch_size: int | None = None,
    steps: int = 0,
    kind: str = "plateau",
    learning_rate: float = 0.01,
    factor: float = 0.1,
    drops: int = 3,
    patience: int = 4,
    epochs: Sequence[float] = (),
    bias_drops: int | None = None,
    layer_rates: Mapping[str, object] | None = None,
    colour_shift: float = 0.1,
    colour_epochs: float | None = None,
    reference_batch: int | None = None,
    warmup_epochs: float | None = None,
    swa_epochs: float | None = None,
) -> Schedule:
    """The schedule of a run, from epochs to steps.

    Args:
      steps_per_epoch: of the run.
      batch_size: of the run, over all devices and processes.
      steps: of the run.
      kind: `plateau` drops the rate when the validation error stops improving, as the
        paper does; `steps` drops it at fixed epochs, as the 2012 runs did by hand;
        `cosine` lets it fall to zero along half a cosine by the run's last step
        (Loshchilov and Hutter 2017), so that the run's length belongs to the schedule.
      learning_rate: the rate at the start.
      factor: by which every drop multiplies the rate.
      drops: how often it may drop, for `plateau`.
      patience: validations in a row without a better error that make a plateau.
      epochs: when it drops, for `steps`.
      bias_drops: in how many drops biases take part (the 2012 runs: one); None for all.
      layer_rates: factors of a layer's rate: `{"conv1": 0.1}`, or in stages
        `{"conv1": ((67, 0.1), (72, 0.0))}` from these epochs on. Zero freezes it.
      colour_shift: coefficient of the colour shift (section 4.1).
      colour_epochs: the epoch from which the colour shift is off (the 2012 run: 67).
      reference_batch: the batch size for which `learning_rate` is meant; turns on
        linear scaling (the 2012 code; Goyal et al. 2017).
      warmup_epochs: over which the rate rises linearly, from the unscaled rate where
        there is a reference batch, else from zero (Goyal et al., section 2.2).
      swa_epochs: the epoch from which on the network that is validated and saved is the
        mean of the parameters after every step (stochastic weight averaging, Izmailov
        et al. 2018, who take one an epoch). They use a rate that stays high from there.

    Raises:
      InputError: if a value is out of range, or epochs don't rise.
    """
    check_choice("schedule.kind", kind, ("plateau", "steps", "cosine"))
    check_number("schedule.patience", patience, least=1)
    _check_ranges(
        epochs,
        factor,
        learning_rate=learning_rate,
        drops=drops,
        bias_drops=bias_drops,
        colour_shift=colour_shift,
        colour_epochs=colour_epochs,
        warmup_epochs=warmup_epochs,
        swa_epochs=swa_epochs,
    )
    scale = 1.0
    if reference_batch is not None:
        check_number("schedule.reference_batch", reference_batch, least=1)
        scale = (batch_size or reference_batch) / reference_batch

    def at(epoch: float) -> int:
        return round(epoch * steps_per_epoch)

    number = {"plateau": drops, "steps": len(epochs), "cosine": 0}[kind]
    stages = [(n, _layer_stages(n, r, at)) for n, r in (layer_rates or {}).items()]
    off = () if colour_epochs is None else ((at(colour_epochs), 0.0),)
    return Schedule(
        rates=tuple(scale * learning_rate * factor**drop for drop in range(number + 1)),
        boundaries=None
        if kind == "plateau"
        else tuple(at(epoch) for epoch in epochs[:number]),
        patience=patience,
        bias_drops=number if bias_drops is None else bias_drops,
        layer_rates=tuple(stages),
        colour=((0, colour_shift), *off),
        warmup=at(warmup_epochs or 0),
        warmup_start=min(1.0, 1 / scale) if reference_batch else 0.0,
        cosine=steps if kind == "cosine" else 0,
        swa=None if swa_epochs is None else at(swa_epochs),
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
    # The 2012 code's examples shift no colours; in some, only the weights' rate drops.
    "cifar_80sec": {"learning_rate": 0.001, "bias_drops": 1, "colour_shift": 0.0},
    "cifar_19pct": {"learning_rate": 0.001, "bias_drops": 2, "colour_shift": 0.0},
    "cifar_13pct": {"learning_rate": 0.001, "bias_drops": 0, "colour_shift": 0.0},
    "cifar_11pct": {"learning_rate": 0.001, "bias_drops": 0, "colour_shift": 0.0},
    # Section 4.1, the second form of augmentation.
    "no_colour": {"colour_shift": 0.0},
}
