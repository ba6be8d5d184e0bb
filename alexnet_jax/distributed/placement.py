"""Arrays on their way to the devices of a mesh, and back to the host."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PyTree

from alexnet_jax.distributed.mesh import EVERYWHERE, EXAMPLES


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch, as a global array split over examples."""
    place = NamedSharding(mesh, EXAMPLES)
    return {
        name: jax.make_array_from_process_local_data(place, array)
        for name, array in batch.items()
    }


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what lies whole on every device."""
    return NamedSharding(mesh, EVERYWHERE)


def specs(tree: PyTree) -> PyTree:
    """The partition specs of arrays on a mesh, or of their tracers inside `jit`."""
    return jax.tree.map(lambda array: jax.typeof(array).sharding.spec, tree)


def whole(array: jax.Array) -> np.ndarray:
    """An array's values on the host, also where other processes hold parts of it.

    To be called by all processes together.
    """
    if array.is_fully_addressable or array.is_fully_replicated:
        return jax.device_get(array)
    indices = array.sharding.devices_indices_map(array.shape).values()
    parts = {str(shard.index): shard for shard in array.addressable_shards}
    if {str(index) for index in indices} <= set(parts):
        host = np.empty(array.shape, array.dtype)
        for shard in parts.values():
            host[shard.index] = shard.data
        return host
    return multihost_utils.process_allgather(array, tiled=True)
