"""What suits a number of training images (`train.recipe`)."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Recipe(NamedTuple):
    """How a run is trained.

    Attributes:
      values: by `SECTION.KEY`.
      why: in words.
    """

    values: Mapping[str, float]
    why: str


# An image is seen so many times, divided by the square root of the number of images,
# between these bounds.
SEEN, LEAST, MOST = 600, 6, 60
# Batches are small up to so many images, so that there are enough steps.
FEW, SMALL, LARGE = 10_000, 32, 128
# The learning rate for a small batch, and its factor in a layer that is re-initialised.
RATE, HEAD = 0.003, 10.0
# In a run, beside the last one's own.
VALIDATIONS = 10


def finetuning(
    images: int,
    head: str,
    *,
    batch_size: int | None = None,
    epochs: float | None = None,
    steps: int | None = None,
) -> Recipe:
    """How a trained network is fine-tuned.

    Args:
      images: in the training set.
      head: the last layer.
      batch_size, epochs, steps: where they are set already; else None.
    """
    epochs = epochs or min(max(round(SEEN / math.sqrt(images)), LEAST), MOST)
    batch_size = batch_size or (SMALL if images < FEW else LARGE)
    steps = steps or round(epochs * images / batch_size)
    values = {
        "train.batch_size": batch_size,
        "train.epochs": float(epochs),
        "train.validate_steps": max(1, steps // VALIDATIONS),
        # In proportion to the batch (Goyal et al. 2017).
        "schedule.learning_rate": RATE * batch_size / SMALL,
        f"schedule.layer_rates.{head}": HEAD,
    }
    return Recipe(values, "the fewer images, the more often each is seen")


RECIPES: dict[str, Callable[..., Recipe]] = {"finetune": finetuning}
