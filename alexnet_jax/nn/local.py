"""Locally connected layers: at each place a kernel of its own.

The 2012 code has them in its examples for CIFAR-10 (`local`), which section 3.3 of the
paper speaks of. The sizes of a layer's maps belong to its parameters.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.nn.products import derived, on_one_input


def connect_shared(
    x: Float[Array, "batch rows columns channels"],
    kernels: Sequence[Float[Array, "rows columns side side channels kernels"]],
) -> list[Float[Array, "batch rows columns kernels"]]:
    """The outputs of several towers' kernels on one input, in the type of `x`.

    An output sees the square around its place, zeros outside of the maps, through the
    kernel of that place. Sides are odd.

    Inside `shard_map` all must vary over the same mesh axes (`lax.pcast`).
    """
    kernels = [kernel.astype(x.dtype) for kernel in kernels]
    return on_one_input(_CONNECTED, _CONNECTED, x, kernels)


def _connected(x: Array, kernel: Array) -> Array:
    rows, columns, side = kernel.shape[:3]
    around = (side // 2, side // 2)
    # In float32, in which the gradients of an input's several places are added up.
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    padded = jnp.pad(wide, ((0, 0), around, around, (0, 0)))
    taps = [
        padded[:, row : row + rows, column : column + columns]
        for row in range(side)
        for column in range(side)
    ]
    squares = jnp.concatenate(taps, axis=-1).astype(x.dtype)
    flat = kernel.reshape(rows, columns, squares.shape[-1], kernel.shape[-1])
    # One matrix product a place, over all examples.
    products = lax.dot_general(squares, flat, (((3,), (2,)), ((1, 2), (0, 1))))
    return products.transpose(2, 0, 1, 3)


_CONNECTED = derived(_connected)
