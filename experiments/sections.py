"""A preset's values by section, for experiments that need no config file."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from alexnet_jax.nn import presets as networks
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.training import optimizer, schedule


# Each section's function, whose signature has the defaults, and what presets change.
SECTIONS = {
    "model": (AlexNet, networks.PRESETS),
    "optimizer": (optimizer.momentum_sgd, optimizer.PRESETS),
    "schedule": (schedule.make_schedule, schedule.PRESETS),
}
GIVEN_BY_RUN = ("tower_axis", "parent", "name", "batch_size")


def preset(name: str) -> dict[str, dict[str, Any]]:
    """All keyword arguments of the network, the update rule and the schedule; the rows
    of the layers as mappings."""
    made = {}
    for section, (function, presets) in SECTIONS.items():
        parameters = inspect.signature(function).parameters
        made[section] = {
            key: parameter.default
            for key, parameter in parameters.items()
            if parameter.default is not parameter.empty and key not in GIVEN_BY_RUN
        }
        changes: Mapping[str, Mapping[str, Any]] = presets
        made[section] |= {**changes.get("code2012", {}), **changes.get(name, {})}
    rows = made["model"]["layers"].items()
    made["model"]["layers"] = {layer: dataclasses.asdict(row) for layer, row in rows}
    return made


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def put(values: Mapping[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key."""
    *path, last = key.split(".")
    place: Any = values
    for part in path:
        place = place[part]
    place[last] = value
