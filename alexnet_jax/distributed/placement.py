"""Arrays on their way to the devices of a mesh, and back to the host."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, PyTree

from alexnet_jax.distributed.mesh import DATA, EVERYWHERE, EXAMPLES


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch, as a global array split over examples."""
    place = NamedSharding(mesh, EXAMPLES)
    return {
        name: jax.make_array_from_process_local_data(place, array)
        for name, array in batch.items()
    }


def moved(batch: Mapping[str, Array], mesh: Mesh) -> dict[str, Array]:
    """A batch on another mesh that has this process's devices at the same places.

    Each device keeps its rows. From the mesh of all processes to this process's own
    (`mesh.own_mesh`) that leaves out the others' rows, and back it adds them.
    """
    if jax.process_count() == 1:
        return dict(batch)
    place = NamedSharding(mesh, EXAMPLES)

    def move(array: Array) -> Array:
        parts = [shard.data for shard in array.addressable_shards]
        shape = (len(parts[0]) * mesh.shape[DATA], *array.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, place, parts)

    return {name: move(array) for name, array in batch.items()}


class RowsOnDevices:
    """Arrays that come to lie whole on every device of a mesh, part by part.

    A part goes to the devices when it comes, and is then dropped by the host, which
    may have less memory than a device.

    Attributes:
      arrays: by name; zeros where no part has come yet.
    """

    def __init__(self, parts: int, mesh: Mesh) -> None:
        """For so many parts, on a mesh of this process's devices alone."""
        self.arrays: dict[str, Array] = {}
        self._place = replicated(mesh)
        self._make = jax.jit(partial(_zeros, parts), out_shardings=self._place)
        self._next = 0

    def add(self, part: Mapping[str, np.ndarray]) -> None:
        """The next rows; every part has as many."""
        placed = jax.device_put(dict(part), self._place)
        start = jax.device_put(np.int32(self._next), self._place)
        self.arrays = _set_rows(self.arrays or self._make(placed), placed, start)
        self._next += len(next(iter(part.values())))
        # Else parts would gather on the devices where the host is the faster one.
        jax.block_until_ready(placed)


def _zeros(count: int, part: dict[str, Array]) -> dict[str, Array]:
    return {
        name: jnp.zeros((count * len(array), *array.shape[1:]), array.dtype)
        for name, array in part.items()
    }


@partial(jax.jit, donate_argnums=0)
def _set_rows(
    whole: dict[str, Array], part: dict[str, Array], start: Array
) -> dict[str, Array]:
    return {
        name: lax.dynamic_update_slice_in_dim(array, part[name], start, 0)
        for name, array in whole.items()
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
