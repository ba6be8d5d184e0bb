"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX and Flax, tower by tower."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from alexnet_jax.inference.trained import Loaded
    from alexnet_jax.nn.alexnet import AlexNet
    from alexnet_jax.nn.presets import PRESETS as presets
    from alexnet_jax.runs.config_file import load_config, preset_config
    from alexnet_jax.runtime.errors import InputError

__version__ = "0.2.0"
__all__ = [
    "AlexNet",
    "InputError",
    "load",
    "load_config",
    "preset_config",
    "presets",
]

# Where the public names are. They are imported when they are asked for: the package
# itself loads neither JAX nor the data libraries.
_PUBLIC = {
    "AlexNet": ("alexnet_jax.nn.alexnet", "AlexNet"),
    "InputError": ("alexnet_jax.runtime.errors", "InputError"),
    "load_config": ("alexnet_jax.runs.config_file", "load_config"),
    "preset_config": ("alexnet_jax.runs.config_file", "preset_config"),
    "presets": ("alexnet_jax.nn.presets", "PRESETS"),
}


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(workdir: str | Path, checkpoint: str | int = "best") -> "Loaded":
    """The network of a work directory, ready to use on one device.

    >>> model, variables, preprocess, class_names = alexnet_jax.load("run")
    >>> logits = model.apply(variables, preprocess(["cat.jpg"]))
    >>> logits, features = model.apply(variables, images, layers=("conv5", "fc7"))

    Args:
      workdir: of a run.
      checkpoint: `best` by validation error, `latest`, or a step.

    Returns:
      The Flax module, its variables, a function from images to network input, and the
      names of the classes.

    Raises:
      InputError: if there is no such checkpoint.
    """
    # Here and not above: the pure modules must import without the data libraries.
    from alexnet_jax.inference import trained

    return trained.load(Path(workdir), checkpoint)
