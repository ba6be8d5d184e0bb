"""What a config trains, without its data: to check a device, or one not there."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import PyTree

from alexnet_jax.data.loading import augment, later_recipes
from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.distributed import placement
from alexnet_jax.distributed.mesh import EXAMPLES
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import recipes
from alexnet_jax.runs.config import (
    Arguments,
    Config,
    check,
    check_set,
    parameters,
    plain,
    section,
)
from alexnet_jax.runs.setup import optimizer_of, schedule_of
from alexnet_jax.training import plan as plans
from alexnet_jax.training.schedule import Schedule
from alexnet_jax.training.step import TrainState, abstract_state


# Of ImageNet (ILSVRC-2012), where a config names no data.
CLASSES, EXAMPLES_OF_IMAGENET = 1000, 1_281_167


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network and how it learns.

    Attributes:
      model: the network.
      optimizer: its update rule.
      schedule: of its learning rates.
      crop: side of the images that it sees, in pixels.
      stored: side of the images that evaluation cuts views from.
      batch_size: images in a training step.
      evaluation_batch: images in an evaluation step.
      views: of each of these.
      seed: of everything random.
      label_smoothing: of training labels.
      recipes: what recipes of later years draw for an image, by its name in a batch.
    """

    model: AlexNet
    optimizer: optax.GradientTransformation
    schedule: Schedule
    crop: int
    stored: int
    batch_size: int
    evaluation_batch: int
    views: int
    seed: int
    label_smoothing: float = 0.0
    recipes: Mapping[str, jax.ShapeDtypeStruct] = dataclasses.field(
        default_factory=dict
    )


def plan_network(config: Config) -> Network:
    """The network of a config. Asks for no device.

    Classes and sizes are those of the data if the config names any, else 1,000 and the
    preset's.

    Raises:
      InputError: if something in the config or the data is wrong.
    """
    settings = plain(config)
    check(settings)
    recipes.check(settings)
    reading = section(settings, "data")
    classes, examples = CLASSES, EXAMPLES_OF_IMAGENET
    stored = _value(reading, "data", "size")
    if reading.get("path") is not None or reading.get("source") == "digits":
        dataset = pipelines.open_pipeline(**reading).dataset
        classes, stored = len(dataset.class_names), dataset.size
        examples = len(dataset.splits["train"])
    crop = _value(reading, "data", "crop")
    settings, _ = recipes.completed(settings, examples)
    check_set(settings)
    training = section(settings, "train")
    if training.get("steps") is None and training.get("epochs") is None:
        training["steps"] = 1
    plan = plans.make_plan(examples=examples, **training)
    model = AlexNet(num_classes=classes, **section(settings, "model"))
    model.check_size(crop, crop)
    schedule = schedule_of(section(settings, "schedule"), plan, model)
    evaluation = section(settings, "eval")
    return Network(
        model=model,
        optimizer=optimizer_of(section(settings, "optimizer"), plan, schedule),
        schedule=schedule,
        crop=crop,
        stored=stored,
        batch_size=plan.batch_size,
        evaluation_batch=_value(evaluation, "eval", "batch_size"),
        views=_value(evaluation, "eval", "views"),
        seed=plan.seed,
        label_smoothing=plan.label_smoothing,
        recipes=_recipes(reading, crop),
    )


def _value(given: Arguments, section: str, key: str) -> Any:
    return given.get(key, parameters(section)[key].default)


def _recipes(reading: Arguments, crop: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What is drawn for an image, read off a pair's.

    Raises:
      InputError: if an option is out of range.
    """
    given = {name: _value(reading, "data", name) for name in later_recipes.OPTIONS}
    later_recipes.check(
        crops=_value(reading, "data", "crops"),
        crop_area=_value(reading, "data", "crop_area"),
        **given,
    )
    pair = later_recipes.drawn(
        0, 0, augment.draw(0, 0, 2, border=0), crop=crop, **given
    )
    return {
        name: jax.ShapeDtypeStruct(array.shape[1:], array.dtype)
        for name, array in pair.items()
    }


def train_arguments(
    network: Network, mesh: Mesh
) -> tuple[TrainState, PyTree, jax.ShapeDtypeStruct]:
    """Shapes, types and shardings of what a training step takes."""
    state = abstract_state(network.model, network.optimizer, mesh, network.crop)
    batch = {
        **_images(network.batch_size, network.crop, mesh),
        "colour_shift": _rows((network.batch_size, 3), np.float32, mesh),
    }
    for name, one in network.recipes.items():
        batch[name] = _rows((network.batch_size, *one.shape), one.dtype, mesh)
    return state, batch, _mean(network, mesh)


def evaluation_arguments(
    network: Network, mesh: Mesh
) -> tuple[PyTree, PyTree, jax.ShapeDtypeStruct]:
    """Shapes, types and shardings of what an evaluation step takes."""
    state = abstract_state(network.model, optax.identity(), mesh, network.crop)
    batch = {
        **_images(network.evaluation_batch, network.stored, mesh),
        "mask": _rows((network.evaluation_batch,), np.bool_, mesh),
    }
    return state.params, batch, _mean(network, mesh)


def _images(batch_size: int, side: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        "image": _rows((batch_size, side, side, 3), np.uint8, mesh),
        "label": _rows((batch_size,), np.int32, mesh),
    }


def _rows(shape: tuple[int, ...], dtype: DTypeLike, mesh: Mesh) -> jax.ShapeDtypeStruct:
    place = NamedSharding(mesh, EXAMPLES)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def _mean(network: Network, mesh: Mesh) -> jax.ShapeDtypeStruct:
    shape = (network.crop, network.crop, 3)
    return jax.ShapeDtypeStruct(shape, np.float32, sharding=placement.replicated(mesh))
