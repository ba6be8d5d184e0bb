"""What `--choose` compares: the recipe, with something set in another way."""

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


HEAD_1 = "schedule.layer_rates.fc8=1.0"
CHOICES = {
    "rate_0.001": _recipe("schedule.learning_rate=0.001"),
    "rate_0.003": _recipe("schedule.learning_rate=0.003"),
    "rate_0.01": _recipe("schedule.learning_rate=0.01"),
    "rate_0.001_head_1": _recipe("schedule.learning_rate=0.001", HEAD_1),
    "rate_0.003_head_1": _recipe("schedule.learning_rate=0.003", HEAD_1),
    "half_as_long": _recipe("train.epochs=30"),
    "frozen_convolutions": _recipe("train.freeze=conv"),
    "warmup": _recipe("schedule.warmup_epochs=6"),
    "no_colour": _recipe("schedule.colour_shift=0"),
    "crop_area": _recipe("data.crop_area=0.35"),
    "decay": _recipe("optimizer.weight_decay=0.005"),
}
