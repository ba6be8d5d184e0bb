"""What a config's sections are: each names the keyword arguments of one function.

The function's signature is the only place of a default: for `model` that is `AlexNet`
in `nn/alexnet.py`, whose `norm_*` are those of `nn/lrn.py`. A preset holds what differs
from it, beside the function.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.data.loading import pipeline
from alexnet_jax.distributed import mesh
from alexnet_jax.nn import presets as networks
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs.validation import make_validation
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import optimizer, schedule
from alexnet_jax.training.plan import make_plan


# Sections by name, of values by key.
Sections = Mapping[str, Mapping[str, object]]
# Keyword arguments of a section's function, which checks their values.
Arguments = dict[str, Any]

# A config section's keys are the keyword arguments of one function.
SECTIONS: dict[str, Callable[..., object]] = {
    "data": pipeline.open_pipeline,
    "model": AlexNet,
    "optimizer": optimizer.momentum_sgd,
    "schedule": schedule.make_schedule,
    "train": make_plan,
    "eval": make_validation,
    "mesh": mesh.open_mesh,
    "checkpoint": CheckpointWriter,
}
# Except these, which the run itself gives.
GIVEN_BY_RUN: dict[str, tuple[str, ...]] = {
    "model": ("num_classes", "tower_axis", "parent", "name"),
    "optimizer": ("schedule",),
    "schedule": ("steps_per_epoch", "batch_size", "steps"),
    "train": ("examples",),
    "eval": ("model", "mesh", "pipeline", "compiler_options"),
    "mesh": ("towers",),
    "checkpoint": ("directory",),
}
# What presets change, by section and preset.
PRESETS: dict[str, Sections] = {
    "model": networks.PRESETS,
    "optimizer": optimizer.PRESETS,
    "schedule": schedule.PRESETS,
    "data": pipeline.PRESETS,
}
# The keys of versions before 0.2, and what took their place.
RENAMED = {
    "model.channels": "model.layers.conv1.channels, and so on for each layer",
    "model.kernel_sizes": "model.layers.conv1.kernel, and so on for each layer",
    "model.strides": "model.layers.conv1.stride, and so on for each layer",
    "model.hidden": "model.layers.fc6.width, and so on for each layer",
    "model.exchanges": "model.layers.conv3.exchange, and so on for each layer",
    "model.kernel_std": "model.layers.conv1.kernel_std, and so on for each layer",
    "model.bias": "model.layers.conv1.bias, and so on for each layer",
    "model.pools": "'pool' in model.layers.conv1.then, and so on for each layer",
    "model.norms": "'norm' in model.layers.conv1.then, and so on for each layer",
    "model.norm_before_relu": "'norm' before 'activation' in model.layers.conv1.then",
    "model.norm_after_pool": "'norm' behind 'pool' in model.layers.conv1.then",
    "model.same_map_norms": "'same_map_norm' in model.layers.conv2.then",
    "model.dropout_after": "'dropout' in model.layers.fc6.then",
    "model.picture_padding": "model.image_padding",
    "model.whiten": "model.standardize",
}


@runtime_checkable
class Config(Protocol):
    """Sections of keys by name: a mapping of mappings, or a ConfigDict."""

    def items(self) -> Iterable[tuple[str, object]]:
        """Names and sections."""
        ...


def section(config: Sections, name: str) -> Arguments:
    """The keyword arguments of a section's function.

    Raises:
      InputError: if a key is none of them.
    """
    given = dict(config.get(name, {}))
    for key in given:
        if key not in parameters(name):
            raise InputError(unknown_key(name, key))
    return given


def check(config: Sections) -> None:
    """Raise an InputError if a section or a key of a config is unknown."""
    if isinstance(config, str):
        raise InputError(
            f"a config is a mapping of sections, and not {config!r:.60}; "
            "alexnet_jax.load_config opens one by its name"
        )
    for name in config:
        if name not in SECTIONS:
            known = ", ".join(SECTIONS)
            raise InputError(f"config.{name} is unknown; sections are {known}")
        section(config, name)


def check_set(config: Sections) -> None:
    """Raise an InputError if a key that takes a value has none, as what only a recipe
    sets (`train.recipe`)."""
    for name, keys in config.items():
        for key, value in keys.items():
            parameter = parameters(name)[key]
            takes_none = parameter.default is None or may_be_none(parameter)
            if value is None and not takes_none:
                raise InputError(
                    f"config.{name}.{key} is not set; give --config.{name}.{key}=VALUE"
                )


def unknown_key(section: str, key: str) -> str:
    """The message about a key that a section doesn't have."""
    if new := RENAMED.get(f"{section}.{key}"):
        return f"config.{section}.{key} is a key of before version 0.2; it is now {new}"
    known = ", ".join(parameters(section))
    return f"config.{section}.{key} is unknown; choose from {known}"


def parameters(section: str) -> dict[str, inspect.Parameter]:
    """The parameters of a section's function that a config sets."""
    found = inspect.signature(SECTIONS[section]).parameters
    given = GIVEN_BY_RUN.get(section, ())
    return {name: found[name] for name in found if name not in given}


def may_be_none(parameter: inspect.Parameter) -> bool:
    """Whether None is among the values that a parameter takes."""
    return type(None) in typing.get_args(parameter.annotation)


def is_by_layer(section: str, key: str) -> bool:
    """Whether a key holds a value for each of some layers, by default for none."""
    parameter = parameters(section).get(key) if section in SECTIONS else None
    if parameter is None or parameter.default is not None:
        return False
    kind = typing.get_args(parameter.annotation)[0]
    return issubclass(typing.get_origin(kind) or kind, Mapping)


def defaults() -> dict[str, dict[str, object]]:
    """Every key of every section with its default, in plain values."""
    return {
        section: {
            name: plain(parameter.default)
            for name, parameter in parameters(section).items()
            if parameter.default is not parameter.empty
        }
        for section in SECTIONS
    }


def preset(name: str) -> dict[str, Arguments]:
    """What a preset changes of the defaults, by section, in plain values.

    Presets are differences from `code2012`.

    Raises:
      InputError: if there is no such preset.
    """
    if name not in networks.PRESETS:
        known = ", ".join(networks.PRESETS)
        raise InputError(f"no preset {name!r}; choose from {known}")
    return {
        section: plain({**of_section.get("code2012", {}), **of_section.get(name, {})})
        for section, of_section in PRESETS.items()
    }


def completed(config: Sections) -> dict[str, dict[str, object]]:
    """A config with the default of every key that it leaves out: the config of an older
    run lacks the keys that came later."""
    return {s: {**values, **config.get(s, {})} for s, values in defaults().items()}


def plain(value: object) -> Any:
    """A config as plain dictionaries, with tuples for lists; a row of the network's
    layers becomes a dictionary of its fields."""
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Config):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(inner) for inner in value)
    return value
