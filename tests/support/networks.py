"""Small networks, batches and runs that several tests share."""

import jax
import numpy as np
from jax.sharding import NamedSharding

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import changed
from alexnet_jax.nn.presets import CODE2012
from alexnet_jax.training import optimizer, step
from alexnet_jax.training.schedule import make_schedule


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


def tiny(rows=None, **changes):
    """A tiny `code2012`; `rows` changes single rows, by name."""
    layers = changed(changed(CODE2012, **TINY), **(rows or {}))
    return AlexNet(**{"num_classes": 5, "layers": layers, **changes})


def parts(model, mesh, size, *, rate=1e-3, seed=0):
    """State, train step and a function that lays a host batch on the mesh."""
    schedule = make_schedule(steps_per_epoch=100, learning_rate=rate)
    sgd = optimizer.momentum_sgd(schedule)
    state = step.init_state(model, sgd, mesh, size, seed)
    train_step = step.make_train_step(model, sgd, schedule, mesh, seed)
    mean = jax.device_put(np.full((size, size, 3), 120, np.float32), replicated(mesh))
    return state, lambda state, host: train_step(state, placed(host, mesh), mean)


def replicated(mesh):
    return NamedSharding(mesh, meshes.EVERYWHERE)


def laid_out(params, model, mesh, size):
    """Parameters on a mesh, as a run has them."""
    abstract = step.abstract_params(model, mesh, size)
    return jax.tree.map(lambda a, s: jax.device_put(a, s.sharding), params, abstract)


def placed(host, mesh):
    place = NamedSharding(mesh, meshes.EXAMPLES)
    return jax.tree.map(lambda array: jax.device_put(array, place), host)


def batches(count, *, batch_size, size, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield {
            "image": rng.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8),
            "label": rng.integers(0, classes, batch_size).astype(np.int32),
            "colour_shift": rng.normal(0, 9, (batch_size, 3)).astype(np.float32),
        }


def mesh_of(data, tower, towers=2):
    return meshes.open_mesh(towers=towers, data=data, tower=tower)


def flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(array)
        for path, array in jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    }
