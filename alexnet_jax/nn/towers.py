"""The towers that a device holds: which, their parameters, exchanges and dropout.

A tower axis of None means no mesh: all towers are here.
"""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key


# JAX has two ways to draw from a key, and a setting of the process that chooses. Here a
# key and a shape decide the bits, whatever the setting.
FIXED_DRAWS = functools.partial(jax.threefry_partitionable, True)

# The axis of towers that a tower's parameters begin with, declared where they are made.
TOWERS = "towers"


class TowerParameters(nn.Module):
    """A layer's kernels and biases in the local towers.

    Attributes:
      shape: of one tower's kernel; of each place's, where there are `places`.
      kernel_std: standard deviation of the initial kernels.
      bias: the initial bias.
      bias_by_tower: whether each tower has its own bias. The last layer's belongs to
        no tower and has no tower axis.
      places: rows and columns, each of which has a kernel and biases of its own in a
        locally connected layer.
    """

    shape: tuple[int, ...]
    kernel_std: float
    bias: float
    bias_by_tower: bool
    places: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, towers: Sequence[int | Array]) -> tuple[Array, Array]:
        """The kernels and biases of towers given by their place among all towers.

        A tower's kernel is drawn from its own key, so that no two towers start alike
        and every mesh starts with the same bits.
        """
        shape = (*self.places, *self.shape)

        def kernels(key: Key[Array, ""]) -> Array:
            def draw(tower: Array) -> Array:
                tower_key = jax.random.fold_in(key, tower)
                # In one axis: the same bits as in four, which XLA takes some ten times
                # as long to compile on a CPU, for each of 8 kernels.
                flat = (math.prod(shape),)
                with FIXED_DRAWS():
                    drawn = jax.random.normal(tower_key, flat, jnp.float32)
                return drawn.reshape(shape)

            # Along an axis of towers, so that a device draws its own towers' alone.
            drawn = jax.vmap(draw)(jnp.asarray(towers, np.int32))
            # XLA would merge the factor with one of the draw's: other roundings.
            return self.kernel_std * lax.optimization_barrier(drawn)

        def biases(_: Key[Array, ""]) -> Array:
            towers_axis = (len(towers),) if self.bias_by_tower else ()
            bias_shape = (*towers_axis, *self.places, self.shape[-1])
            return jnp.full(bias_shape, self.bias, jnp.float32)

        # Every axis is named, as in the shardings that a compiled step returns: a
        # shorter spelling would compile the step a second time.
        kernel_axes = (TOWERS, *[None] * len(shape))
        own_axes = [None] * (len(self.places) + 1)
        bias_axes = (TOWERS, *own_axes) if self.bias_by_tower else (*own_axes,)
        param: Callable[..., Array] = self.param
        return (
            param("kernel", nn.with_partitioning(kernels, kernel_axes)),
            param("bias", nn.with_partitioning(biases, bias_axes)),
        )


@jax.custom_vjp
def add_bias(
    x: Float[Array, "*shape width"], bias: Float[Array, "*last width"]
) -> Float[Array, "*shape width"]:
    """Add a bias to the last axis, or to as many as it has, in the type of `x`.

    The bias's gradient is summed in float32 at least. JAX's own derivative would sum it
    in the type of `x`; a GPU adds bfloat16 natively, and a sum in bfloat16 stops at 256
    where ones are added.

    Inside `shard_map` both must vary over the same mesh axes (`lax.pcast`).
    """
    return x + lax.expand_dims(bias.astype(x.dtype), range(x.ndim - bias.ndim))


def _add_bias_forward(x: Array, bias: Array) -> tuple[Array, Array]:
    # The bias is kept for its type alone.
    return add_bias(x, bias), bias


def _add_bias_backward(bias: Array, dy: Array) -> tuple[Array, Array]:
    wide = dy.astype(np.promote_types(dy.dtype, np.float32))
    axes = range(dy.ndim - bias.ndim)
    return dy, lax.reduce_sum(wide, axes).astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def tower_indices(towers: int, axis: str | None) -> list[int | Array]:
    """The local towers' places among all towers."""
    if axis is None:
        return list(range(towers))
    local = towers // lax.axis_size(axis)
    first = lax.axis_index(axis) * local
    return [first + tower for tower in range(local)]


def gather(
    xs: Sequence[Float[Array, "*shape width"]], axis: str | None
) -> Float[Array, "*shape all"]:
    """Every tower's features, side by side."""
    x = jnp.concatenate(xs, axis=-1)
    if axis is None:
        return x
    # Gathered along a new first axis: XLA lays the gathered axis outermost, and
    # channels laid outermost would slow every layer that comes before.
    devices = lax.all_gather(x, axis)
    return jnp.concatenate(list(devices), axis=-1)


def own_part(
    x: Float[Array, "*shape all"], indices: Sequence[int | Array], towers: int
) -> list[Array]:
    """The features of the towers of these indices, out of gathered features."""
    width = x.shape[-1] // towers
    return [
        lax.dynamic_slice_in_dim(x, tower * width, width, axis=-1) for tower in indices
    ]


def dropout(
    xs: Sequence[Float[Array, "batch *shape"]],
    indices: Sequence[int | Array],
    key: Key[Array, ""] | None,
    *,
    layer: int,
    examples: Int[Array, " batch"],
    keep: float,
) -> list[Array]:
    """Zero a fraction of the outputs; without a key, scale by the fraction kept.

    A mask belongs to a layer, a tower and an example, so it is the same whatever device
    computes it.

    Args:
      xs: of each local tower.
      indices: the local towers' places among all towers.
      key: of the seed and the step.
      layer: its place in the network.
      examples: each image's place in the global batch.
      keep: the fraction of outputs that stays.
    """
    if keep == 1:
        return list(xs)
    if key is None:
        return [x * jnp.asarray(keep, x.dtype) for x in xs]
    key = jax.random.fold_in(key, layer)
    keys = [jax.random.fold_in(key, tower) for tower in indices]
    return [
        jnp.where(_masks(key, examples, keep, x.shape[1:]), x, 0)
        for key, x in zip(keys, xs, strict=True)
    ]


def _masks(
    key: Key[Array, ""],
    examples: Int[Array, " batch"],
    keep: float,
    shape: tuple[int, ...],
) -> Array:
    """Which outputs each example keeps; decided by the key and its place alone."""

    def mask(example: Int[Array, ""]) -> Array:
        example_key = jax.random.fold_in(key, example)
        # In 64-bit mode a Python number would draw other bits.
        with FIXED_DRAWS():
            return jax.random.bernoulli(example_key, np.float32(keep), shape)

    return jax.vmap(mask)(examples)


def flat(xs: Sequence[Array]) -> list[Array]:
    """Each tower's features in one axis. Where towers share an input they still do."""
    if all(x is xs[0] for x in xs):
        return [_flatten(xs[0])] * len(xs)
    return [_flatten(x) for x in xs]


def _flatten(x: Array) -> Array:
    # The product and not -1, which a batch of none leaves open.
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))
