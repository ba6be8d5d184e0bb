"""Fine-tuning: a new run that starts from a trained network's parameters."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import PyTree

from alexnet_jax.inference.trained import Params, open_trained
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


# Fields of a network, and of its layers, that change nothing in what trained parameters
# compute: the head's size, where, how and in what type the run computes, and how
# parameters that are replaced were drawn.
NOT_COMPARED = frozenset(
    (
        *("num_classes", "dtype", "implementation", "tower_axis", "parent", "name"),
        *("kernel_std", "bias"),
    )
)


# Those of `configs/finetune.py`.
VARIANTS = ("code2012", "paper", "conv6", "caffe", "caffenet", "owt")


def init_from(
    source: Path,
    params: Params,
    model: AlexNet,
    class_names: Sequence[str],
    mesh: Mesh,
) -> Params:
    """Pretrained parameters for a new run.

    The layer shapes must match; settings that differ are printed as a warning. Which
    layers are taken, and from which checkpoint, is printed.

    Args:
      source: work directory of the pretrained run; its best checkpoint is taken.
      params, model: initial parameters and network of the new run.
      class_names: of the new run. If they differ from the pretrained run's, the last
        layer keeps its initial parameters.
      mesh: where the parameters are placed.

    Raises:
      InputError: if layer shapes differ; the message names the layers.
    """
    pretrained = open_trained(source, "best")
    *_, head = model.layers
    same_classes = tuple(class_names) == pretrained.data.class_names
    theirs = pretrained.abstract_params(mesh)
    differing = [
        f"{name} {_shape(theirs.get(name))} -> {_shape(params.get(name))}"
        for name in dict.fromkeys([*params, *theirs])
        if (name != head or same_classes)
        and _shape(params.get(name)) != _shape(theirs.get(name))
    ]
    if differing:
        shapes = "; ".join(differing)
        # The crop decides the shape of the first fully connected layer alone.
        alike = not differing_settings(pretrained.model, model)
        if alike and len(differing) == 1:
            crop = pretrained.data.crop
            raise InputError(
                f"train.init_from={source} is a run on other crops ({shapes}); give "
                f"--config.data.crop={crop}"
            )
        known = pretrained.preset
        instead = f", or its own with --config=finetune:{known}"
        raise InputError(
            f"train.init_from={source} is a run of another network ({shapes}); give "
            f"one of the same layers{instead if known in VARIANTS else ''}"
        )
    if settings := differing_settings(pretrained.model, model):
        progress.say(
            f"warning: {source} was trained with other settings of the network: "
            f"{', '.join(settings)}"
        )
    taken = pretrained.params(mesh)
    progress.say(
        f"starts from {source}, checkpoint of step {pretrained.step}: "
        + _account([*params], None if same_classes else head)
    )
    if not same_classes:
        taken[head] = params[head]
    return {name: taken[name] for name in params}


def _account(layers: Sequence[str], initialised: str | None) -> str:
    """What a new run takes of a pretrained one, in words."""
    taken = [name for name in layers if name != initialised]
    words = f"takes {', '.join(taken)}"
    if initialised is not None:
        words += f"; {initialised} is re-initialised, since the classes differ"
    return words


def differing_settings(theirs: nn.Module, ours: nn.Module) -> list[str]:
    """The settings in which two networks differ although their shapes match."""
    there, here = dict(_settings("model", theirs)), dict(_settings("model", ours))
    return [
        f"{key}={there.get(key)!r} there and {here.get(key)!r} here"
        for key in dict.fromkeys([*here, *there])
        if there.get(key) != here.get(key)
    ]


def _settings(key: str, value: object) -> Iterator[tuple[str, object]]:
    """The fields of a network or of a layer's row by dotted key."""
    if dataclasses.is_dataclass(value):
        inner = {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if field.name not in NOT_COMPARED
        }
    elif isinstance(value, Mapping):
        inner = dict(value)
    else:
        yield key, value
        return
    for name, part in inner.items():
        yield from _settings(f"{key}.{name}", part)


def _shape(layer: PyTree) -> str:
    return "missing" if layer is None else "x".join(map(str, layer["kernel"].shape))
