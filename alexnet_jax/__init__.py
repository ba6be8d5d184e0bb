"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX and Flax, tower by tower."""

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from alexnet_jax.inference.trained import Loaded

__version__ = "0.1.0"
__all__ = ["load"]


def load(workdir: str | Path, checkpoint: str | int = "best") -> "Loaded":
    """The network of a work directory, ready to use on one device.

    >>> model, variables, preprocess, class_names = alexnet_jax.load("run")
    >>> logits = model.apply(variables, preprocess(["cat.jpg"]))
    >>> logits, features = model.apply(variables, images, layers=("conv5", "fc7"))

    Args:
      workdir: of a run.
      checkpoint: `best` by validation error, `latest`, or a step.

    Returns:
      The Flax module, its variables, a function from pictures to network input, and the
      names of the classes.

    Raises:
      errors.InputError: if there is no such checkpoint.
    """
    # Here and not above: the pure modules must import without the data libraries.
    from alexnet_jax.inference import trained

    return trained.load(Path(workdir), checkpoint)
