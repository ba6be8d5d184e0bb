"""A layer's parameters and dropout masks in the towers that a device holds."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key


class TowerParameters(nn.Module):
    """A layer's kernels and biases in the local towers.

    Attributes:
      shape: of one tower's kernel.
      kernel_std: standard deviation of the initial kernels.
      bias: the initial bias.
      bias_by_tower: whether each tower has its own bias. The last layer's belongs to
        no tower and has no tower axis.
    """

    shape: tuple[int, ...]
    kernel_std: float
    bias: float
    bias_by_tower: bool

    @nn.compact
    def __call__(self, towers: Sequence[int | Array]) -> tuple[Array, Array]:
        """The kernels and biases of towers given by their place among all towers.

        A tower's kernel is drawn from its own key, so that no two towers start alike
        and every mesh starts with the same bits.
        """

        def kernels(key: Key[Array, ""]) -> Array:
            def draw(tower: int | Array) -> Array:
                return jax.random.normal(jax.random.fold_in(key, tower), self.shape)

            return self.kernel_std * jnp.stack([draw(tower) for tower in towers])

        def biases(_: Key[Array, ""]) -> Array:
            towers_axis = (len(towers),) if self.bias_by_tower else ()
            return jnp.full((*towers_axis, self.shape[-1]), self.bias, jnp.float32)

        return self.param("kernel", kernels), self.param("bias", biases)


def add_bias(x: Array, bias: Float[Array, " width"]) -> Array:
    """Add a bias to the last axis, in the type of `x`."""
    return x + lax.expand_dims(bias.astype(x.dtype), range(x.ndim - 1))


def dropout_masks(
    key: Key[Array, ""], examples: Int[Array, " batch"], keep: float, width: int
) -> Array:
    """Which outputs each example keeps; decided by the key and its place alone."""

    def mask(example: Int[Array, ""]) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, example), keep, (width,))

    return jax.vmap(mask)(examples)
