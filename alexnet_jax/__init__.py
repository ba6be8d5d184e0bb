"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX and Flax, tower by tower."""

import os
import sys


_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_IS_PROGRAM = any(text.startswith("alexnet_jax") for text in sys.orig_argv)
_FIRST = [] if sys.flags.safe_path else sys.path[:1]
if sys.argv[:1] == ["-m"] and _IS_PROGRAM and _FIRST not in ([], [_HERE]):
    # `python -m alexnet_jax...` puts the current folder first, where a user's
    # `resource.py` would take the place of the library's. Last it does no harm.
    sys.path.append(sys.path.pop(0))

import importlib
from typing import TYPE_CHECKING

from alexnet_jax.runtime import cpp_log


if sys.argv[:1] == ["-m"] and _IS_PROGRAM:
    cpp_log.silence()


if TYPE_CHECKING:
    from alexnet_jax.inference.trained import load
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
    "load": ("alexnet_jax.inference.trained", "load"),
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
