"""What the recipe was chosen from: each row is the recipe with something changed."""

from typing import NamedTuple


class Choice(NamedTuple):
    """A way to train.

    Attributes:
      config: of the package.
      starts: whether from the pretrained network.
      changes: overrides.
    """

    config: str
    starts: bool
    changes: tuple[str, ...] = ()


def _recipe(*changes: str) -> Choice:
    return Choice("finetune", True, tuple(f"--config.{text}" for text in changes))


CHOICES = {
    "recipe": _recipe(),
    "rate_0.0003": _recipe("schedule.learning_rate=0.0003"),
    "rate_0.003": _recipe("schedule.learning_rate=0.003"),
    "rate_0.01": _recipe("schedule.learning_rate=0.01"),
    "head_1": _recipe("schedule.layer_rates.fc8=1.0"),
    "rate_0.003_head_1": _recipe(
        "schedule.learning_rate=0.003", "schedule.layer_rates.fc8=1.0"
    ),
    "rate_0.01_head_1": _recipe(
        "schedule.learning_rate=0.01", "schedule.layer_rates.fc8=1.0"
    ),
    "half_as_long": _recipe("train.epochs=30"),
    "batch_16": _recipe("train.batch_size=16"),
    "batch_128": _recipe("train.batch_size=128", "schedule.learning_rate=0.004"),
    "frozen_convolutions": _recipe("train.freeze=conv"),
    "warmup": _recipe("schedule.warmup_epochs=6"),
    "no_colour": _recipe("schedule.colour_shift=0"),
    "crop_area": _recipe("data.crop_area=0.35"),
    "decay": _recipe("optimizer.weight_decay=0.005"),
}
