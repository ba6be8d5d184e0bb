"""What a config's sections are: each names the arguments of one function."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from alexnet_jax.checkpoint.checkpointer import Checkpoints
from alexnet_jax.data.loading import pipeline
from alexnet_jax.distributed import mesh
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs.validation import make_validation
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.run_length import make_plan
from alexnet_jax.training.schedule import make_schedule


# A config section's keys are the keyword arguments of one function.
SECTIONS: dict[str, Callable[..., Any]] = {
    "data": pipeline.open_pipeline,
    "model": AlexNet,
    "optimizer": momentum_sgd,
    "schedule": make_schedule,
    "train": make_plan,
    "eval": make_validation,
    "mesh": mesh.open_mesh,
    "checkpoint": Checkpoints,
}
# But for these, which the run itself gives.
GIVEN_BY_RUN: dict[str, tuple[str, ...]] = {
    "model": ("num_classes", "tower_axis", "parent", "name"),
    "optimizer": ("schedule",),
    "schedule": ("steps_per_epoch", "batch_size"),
    "train": ("examples",),
    "eval": ("model", "mesh", "pipeline"),
    "mesh": ("towers",),
    "checkpoint": ("directory", "clean"),
}


def call(config: Mapping[str, Any], section: str, *given: Any, **named: Any) -> Any:
    """Call a section's function with its keys as keyword arguments.

    Raises:
      InputError: if a key is none of them.
    """
    check_keys(config, section)
    return SECTIONS[section](*given, **named, **config.get(section, {}))


def check_keys(config: Mapping[str, Any], section: str) -> None:
    """Raise an InputError if a key of a section is no argument of its function."""
    for key in config.get(section, {}):
        if key not in keys(section):
            raise InputError(
                f"config.{section}.{key} is unknown; "
                f"choose from {', '.join(keys(section))}"
            )


def keys(section: str) -> list[str]:
    """The keys of a config section."""
    parameters = inspect.signature(SECTIONS[section]).parameters
    return [name for name in parameters if name not in GIVEN_BY_RUN.get(section, ())]


def completed(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A config with the default of every key that it leaves out: an older run's has not
    yet the keys of today."""
    defaults = {
        section: {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if name in keys(section) and parameter.default is not parameter.empty
        }
        for section, function in SECTIONS.items()
    }
    return {s: {**values, **config.get(s, {})} for s, values in defaults.items()}


def plain(value: Any) -> Any:
    """A config as plain dictionaries, with tuples for lists."""
    if hasattr(value, "items"):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(inner) for inner in value)
    return value
