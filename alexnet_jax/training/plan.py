"""A run's batch size, seed and length, and when it validates and saves."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.runtime.errors import InputError, check_choice, check_number
from alexnet_jax.runtime.paths import local


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run trains. Made by `make_plan`, whose arguments the attributes are."""

    examples: int
    batch_size: int
    seed: int
    steps: int
    validate_steps: int | None
    save_steps: int | None
    save_minutes: float | None
    init_from: Path | None
    freeze: tuple[str, ...] = ()
    deterministic: str = "auto"
    label_smoothing: float = 0.0
    check_every: int | None = None
    timeout: float | None = None
    skip_spikes: bool = False

    @property
    def steps_per_epoch(self) -> float:
        """How many steps see as many examples as the training set has."""
        return self.examples / self.batch_size

    def epochs(self, step: int) -> int:
        """How many epochs are complete after a step."""
        return step * self.batch_size // self.examples

    def validates(self, step: int) -> bool:
        """Whether a validation follows a step; one follows the last."""
        if step in (0, self.steps):
            return step > 0
        if self.validate_steps is not None:
            return step % self.validate_steps == 0
        # Integers: a quotient of floats puts some borders of epochs a step late.
        return self.epochs(step) > self.epochs(step - 1)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows a step, beside those of validations."""
        return self.save_steps is not None and step % self.save_steps == 0


def make_plan(
    *,
    examples: int,
    batch_size: int = 128,
    steps: int | None = None,
    epochs: float | None = None,
    seed: int = 0,
    validate_steps: int | None = None,
    save_steps: int | None = None,
    save_minutes: float | None = None,
    init_from: str | None = None,
    freeze: Sequence[str] = (),
    recipe: str | None = None,
    deterministic: str | bool = "auto",
    label_smoothing: float = 0.0,
    check_every: int | None = None,
    timeout: float | None = 300.0,
    skip_spikes: bool = False,
) -> Plan:
    """How a run trains.

    Args:
      examples: in the training set.
      batch_size: examples in a step, over all devices.
      steps: the run's length.
      epochs: its length in passes over the training set, where `steps` is None.
      seed: seed of everything random.
      validate_steps: steps between validations; None for one after every epoch.
      save_steps: steps between checkpoints beside those of validations.
      save_minutes: minutes after a checkpoint until the next is saved, whatever the
        speed; None for no checkpoint by time.
      init_from: a work directory whose parameters the run starts with; its last layer
        is re-initialised where the classes differ.
      freeze: layers that keep their parameters: `conv1,conv2`, or all of a kind: `conv`
        or `fc`. A rate of zero in `schedule.layer_rates` does so from an epoch on.
      recipe: `finetune` sets what is None of batch size, epochs, steps between
        validations and learning rate, and the last layer's factor of it, as suits the
        number of training images and the batch (`--config=finetune`). `runs.recipes`
        has done so
        before the plan is made.
      deterministic: `true` has a GPU compute the same bits in every run of a seed, and
        after a resume: without algorithms that add in a varying order, and with those
        that the first start chose, kept in the work directory. `false` lets it choose.
        `auto` is `false`, until the cost on a GPU is measured. A CPU always does.
      label_smoothing: the part of each training label that is spread evenly over all
        classes (Szegedy et al. 2016; 0.1 there). Validation does not.
      check_every: computes every so many steps one step twice, and ends the run where
        the bytes differ: the device computes wrong. The cost is the time of that step,
        and the memory of a second state; None never does. A GPU needs
        `deterministic=true` for it.
      timeout: seconds after which a step that does not end counts as stuck: the stacks
        of all threads are written into the work directory, and the run ends with status
        1. The limit is 20 times the slowest of the last 100 steps where that is longer;
        12 times as long while compiling, 6 times while saving, and twice `data.timeout`
        more while a batch is read or validated. None waits for ever.
      skip_spikes: a step whose loss is over twice the median of the 100 steps before it
        and 1.5 times the largest of them changes nothing but the count of steps, in
        every run of the seed. It is noted and said either way.

    Raises:
      InputError: if no length is given, or a number is not positive.
    """
    if steps is None and epochs is None:
        raise InputError("give train.steps or train.epochs")
    check_number("train.batch_size", batch_size, least=1)
    check_number("train.label_smoothing", label_smoothing, below=1)
    check_number("train.epochs", epochs or 0)
    if steps is None:
        steps = round((epochs or 0) * (examples / batch_size))
        if steps < 1:
            raise InputError(
                f"train.epochs={epochs} is no step: an epoch of {examples} images has "
                f"{examples / batch_size:.3g} steps of train.batch_size={batch_size}; "
                "give more epochs, or train.steps"
            )
    if timeout is not None:
        check_number("train.timeout", timeout, least=1)
    # From Python also True and False.
    deterministic = str(deterministic).lower()
    check_choice("train.deterministic", deterministic, ("auto", "true", "false"))
    # JAX would take the seed's lower 32 bits.
    check_number("train.seed", seed, below=2**32)
    lengths = {
        "train.steps": steps,
        "train.validate_steps": validate_steps,
        "train.save_steps": save_steps,
        "train.check_every": check_every,
    }
    if save_minutes is not None:
        check_number("train.save_minutes", save_minutes)
    for name, value in lengths.items():
        if value is not None:
            check_number(name, value, least=1)
    return Plan(
        examples=examples,
        batch_size=batch_size,
        seed=seed,
        steps=steps,
        validate_steps=validate_steps,
        save_steps=save_steps,
        save_minutes=save_minutes,
        init_from=None if init_from is None else local(init_from, "train.init_from"),
        freeze=(freeze,) if isinstance(freeze, str) else tuple(freeze),
        deterministic=deterministic,
        label_smoothing=label_smoothing,
        check_every=check_every,
        timeout=timeout,
        skip_spikes=skip_spikes,
    )
