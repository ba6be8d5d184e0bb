"""Small networks, batches and runs that several tests share."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, PyTree

from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import changed
from alexnet_jax.nn.presets import CODE2012, PRESETS
from alexnet_jax.training import optimizer, step
from alexnet_jax.training.schedule import make_schedule
from alexnet_jax.training.step import Batch, TrainState


# What makes the network tiny, by row.
TINY = {
    "conv1": {"channels": 8},
    "conv2": {"channels": 12},
    "conv3": {"channels": 8},
    "conv4": {"channels": 12},
    "conv5": {"channels": 8},
    "fc6": {"width": 16},
    "fc7": {"width": 12},
}
# The same on the command line.
ROWS = [
    f"--config.model.layers.{row}.{key}={value}"
    for row, keys in TINY.items()
    for key, value in keys.items()
]


def each_preset() -> list[Any]:
    """Every preset, as a test's parameters; some have the layers of others."""
    same = ("cifar_80sec", "cifar_13pct")
    return [
        pytest.param(name, marks=pytest.mark.extended if name in same else ())
        for name in PRESETS
    ]


def tiny(
    rows: Mapping[str, Mapping[str, object]] | None = None, **changes: Any
) -> AlexNet:
    """A tiny `code2012`; `rows` changes single rows, by name."""
    layers = changed(changed(CODE2012, **TINY), **(rows or {}))
    return AlexNet(**{"num_classes": 5, "layers": layers, **changes})


def logits_of(
    model: AlexNet,
    variables: PyTree,
    images: Array | np.ndarray,
    *,
    dropout_key: Array | None = None,
    examples: Array | None = None,
) -> Array:
    """The logits of images, in one program: seconds sooner than by operations."""
    apply = jax.jit(model.apply)
    logits = apply(variables, images, dropout_key=dropout_key, examples=examples)
    assert isinstance(logits, Array)
    return logits


def features_of(
    model: AlexNet,
    variables: PyTree,
    images: Array | np.ndarray,
    layers: str | Sequence[str],
) -> tuple[Array, dict[str, Array]]:
    """The logits of images, and layers by name."""
    apply = jax.jit(functools.partial(model.apply, layers=layers))
    outputs: PyTree = apply(variables, images)
    return outputs


def parts(
    model: AlexNet, mesh: Mesh, size: int, *, rate: float = 1e-3, seed: int = 0
) -> tuple[
    TrainState,
    Callable[[TrainState, HostBatch], tuple[TrainState, dict[str, Array]]],
]:
    """State, train step and a function that lays a host batch on the mesh."""
    schedule = make_schedule(steps_per_epoch=100, learning_rate=rate)
    sgd = optimizer.momentum_sgd(schedule)
    state = step.init_state(model, sgd, mesh, size, seed)
    train_step = step.make_train_step(model, sgd, schedule, mesh, seed)
    mean = jax.device_put(np.full((size, size, 3), 120, np.float32), replicated(mesh))
    return state, lambda state, host: train_step(state, placed(host, mesh), mean)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, meshes.EVERYWHERE)


def laid_out(params: PyTree, model: AlexNet, mesh: Mesh, size: int) -> PyTree:
    """Parameters on a mesh, as a run has them."""
    abstract = step.abstract_params(model, mesh, size)
    return jax.tree.map(lambda a, s: jax.device_put(a, s.sharding), params, abstract)


def placed(host: HostBatch, mesh: Mesh) -> Batch:
    place = NamedSharding(mesh, meshes.EXAMPLES)
    return jax.tree.map(lambda array: jax.device_put(array, place), host)


def batches(
    count: int, *, batch_size: int, size: int, classes: int = 5, seed: int = 0
) -> Iterator[HostBatch]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield {
            "image": rng.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8),
            "label": rng.integers(0, classes, batch_size).astype(np.int32),
            "colour_shift": rng.normal(0, 9, (batch_size, 3)).astype(np.float32),
        }


def exchanges(model: AlexNet, *, training: bool = True) -> list[tuple[str, str]]:
    """What the towers of a network exchange on a device each, and for which layer."""
    *hidden, last = model.layers.items()
    if model.towers == 1:
        return []
    gathered = []
    for name, row in hidden:
        gathered += [name] * row.exchange
        gathered += [name] * ("norm" in row.then and model.norm_across_towers)
    kinds = ("all-gather", "reduce-scatter") if training else ("all-gather",)
    found = [(kind, name) for kind in kinds for name in gathered]
    return sorted([*found, ("all-reduce", last[0])])


def mesh_of(data: int, tower: int, towers: int = 2) -> Mesh:
    return meshes.open_mesh(towers=towers, data=data, tower=tower)


def flat(tree: PyTree) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(array)
        for path, array in jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    }


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Every equation of a program, also inside of others: loops, branches, calls."""
    for equation in jaxpr.eqns:
        yield equation
        inner = jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda value: isinstance(value, Jaxpr | ClosedJaxpr),
        )
        for value in inner:
            if isinstance(value, ClosedJaxpr):
                yield from equations(value.jaxpr)
            elif isinstance(value, Jaxpr):
                yield from equations(value)


def on_this_device(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the program gives that is compiled for this device."""
    return jax.jit(function)(*arguments)


def as_on_a_tpu(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the program that is lowered for a TPU gives, computed on this device."""
    unchecked = [jax.export.DisabledSafetyCheck.platform()]
    export = jax.export.export(
        jax.jit(function), platforms=["tpu"], disabled_checks=unchecked
    )
    return export(*arguments).call(*arguments)


def lowered(function: Callable[..., Any], *arguments: Any) -> dict[str, str]:
    """A program's text for each platform."""
    program = jax.jit(function).trace(*arguments)
    return {
        platform: program.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "tpu")
    }


def traced(model: AlexNet, size: int) -> Any:
    """The train step, a tower a device, traced for images of `size`."""
    mesh = mesh_of(1, model.towers, towers=model.towers)
    schedule = make_schedule(steps_per_epoch=1)
    sgd = optimizer.momentum_sgd(schedule)
    state = step.abstract_state(model, sgd, mesh, size)
    train = step.make_train_step(model, sgd, schedule, mesh, 0)
    place = jax.sharding.NamedSharding(mesh, meshes.EXAMPLES)
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place),
        next(batches(1, batch_size=2, size=size)),
    )
    mean = jax.ShapeDtypeStruct((size, size, 3), np.float32, sharding=replicated(mesh))
    assert isinstance(train, jax.stages.Wrapped)
    return train.trace(state, batch, mean)
