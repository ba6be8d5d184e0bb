"""How long a run is, and when it validates and saves."""

import dataclasses
from pathlib import Path

from alexnet_jax.distributed import mesh
from alexnet_jax.runtime.errors import InputError, check_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How long a run is, when it validates and saves. Made by `make_plan`."""

    batch_size: int
    seed: int
    steps: int
    steps_per_epoch: float
    validate_steps: int | None
    save_steps: int | None
    init_from: Path | None = None

    def validates(self, step: int) -> bool:
        """Whether a validation follows: every so often, and after the last step."""
        if step in (0, self.steps):
            return step > 0
        if self.validate_steps is not None:
            return step % self.validate_steps == 0
        # The first step at which a further epoch is complete.
        return int(step / self.steps_per_epoch) > int((step - 1) / self.steps_per_epoch)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint without a validation follows this step."""
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
    init_from: str | None = None,
) -> Plan:
    """How long a run is.

    Args:
      examples: in the training split.
      batch_size: pictures in a step, over all devices.
      steps: the run's length; where it is None,
      epochs: its length in passes over the training pictures.
      seed: of everything random.
      validate_steps: steps between validations; None for one after every epoch.
      save_steps: steps between checkpoints beside those after validations.
      init_from: a work directory whose parameters the run begins with; its last layer
        is drawn anew where the classes are others.

    Raises:
      InputError: if no length is given, or a number is not positive.
    """
    if steps is None and epochs is None:
        raise InputError("give train.steps or train.epochs")
    mesh.check_batch(batch_size, 1, "train.batch_size")
    steps_per_epoch = examples / batch_size
    if epochs is not None:
        check_number("train.epochs", epochs)
    if steps is None:
        steps = round((epochs or 0) * steps_per_epoch)
    # JAX would take the seed's lower 32 bits.
    check_number("train.seed", seed, below=2**32)
    lengths = {
        "train.steps": steps,
        "train.validate_steps": validate_steps,
        "train.save_steps": save_steps,
    }
    for name, value in lengths.items():
        if value is not None:
            check_number(name, value, least=1)
    return Plan(
        batch_size=batch_size,
        seed=seed,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        validate_steps=validate_steps,
        save_steps=save_steps,
        init_from=None if init_from is None else Path(init_from),
    )
