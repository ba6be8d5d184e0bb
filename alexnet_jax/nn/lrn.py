"""Response normalisation with its derivative written by hand.

Both norms of the 2012 network divide a value by a power of its neighbourhood's energy,

    y = x * s**-beta,    s = k + alpha * (sum of x**2 over the window),

and differ only in the window: neighbouring channels at one place (section 3.3 of the
paper, `cmrnorm` in the 2012 code), or a square of places in one channel (`rnorm` in the
2012 code, not in the paper). Windows are clipped at the border.

The derivative is written out because automatic differentiation keeps every shifted
slice alive. The window is symmetric, so its transpose is itself:

    dx = g * s**-beta - 2 * alpha * beta * x * (sum of g * x * s**(-beta - 1))

Only `x` is kept for the backward pass; `s` is cheaper to compute again than to store.

A window is a sum of shifted slices. On a TPU a slice is a copy in memory, and its
compiler merges none of them: there the window over channels is a product with a matrix
of a band of ones, and the window over places XLA's own (`experiments/targets/`). The
sums are the same, in float32; in half precision the band's products take operands that
are rounded to it.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from alexnet_jax.runtime.errors import InputError, check_number


# Of the 2012 code, the defaults of `norm_size`, `norm_k`, `norm_alpha` and `norm_beta`
# of a network. The paper prints an alpha of 1e-4; the 2012 code divides it by the size.
NORM_SIZE, NORM_K, NORM_ALPHA, NORM_BETA = 5, 2.0, 2e-5, 0.75
# Of `cnorm2` in the 2012 code.
SAME_MAP_SIZE, SAME_MAP_K, SAME_MAP_ALPHA, SAME_MAP_BETA = 5, 1.0, 4e-5, 0.75


def local_response_norm(
    x: Float[Array, "*places channels"],
    *,
    size: int = NORM_SIZE,
    k: float = NORM_K,
    alpha: float = NORM_ALPHA,
    beta: float = NORM_BETA,
) -> Float[Array, "*places channels"]:
    """Normalise each value by the energy of the channels around it (section 3.3).

    Args:
      x: activations with the channels last. Neighbours are the channels given: hand in
        one tower's channels to normalise within the tower, as the 2012 code does.
      size: how many adjacent channels are summed, odd, the value's own in the middle.
      k: added to the sum.
      alpha: multiplies the plain sum of squares.
      beta: the exponent.

    Returns:
      The normalised activations, in the type of `x`; half precision is computed in
      float32.

    Raises:
      ValueError: if `size` is not an odd positive number.
    """
    return _response_norm(x, (x.ndim - 1,), _odd(size), k, alpha, beta)


def same_map_norm(
    x: Float[Array, "*batch height width channels"],
    *,
    size: int = SAME_MAP_SIZE,
    k: float = SAME_MAP_K,
    alpha: float = SAME_MAP_ALPHA,
    beta: float = SAME_MAP_BETA,
) -> Float[Array, "*batch height width channels"]:
    """Normalise each value by the energy of the places around it in its own channel.

    The layer `cnorm2` of the 2012 code, which the paper does not mention: a scale of
    1e-3 divided by the 25 places of the window, and `k` 1.

    Args:
      x: activations with the channels last.
      size: the side of the square window, odd.
      k: added to the sum.
      alpha: multiplies the plain sum of squares.
      beta: the exponent.

    Raises:
      ValueError: if `size` is not an odd positive number.
    """
    return _response_norm(x, (x.ndim - 3, x.ndim - 2), _odd(size), k, alpha, beta)


def check_constants(size: int, k: float, alpha: float, beta: float) -> None:
    """Raise an InputError if the constants of a network's `norm` are out of range."""
    check_number("model.norm_alpha", alpha)
    check_number("model.norm_beta", beta)
    # Where all features in the window are zero, the power of the sum is that of k.
    if not 0 < k < math.inf:
        raise InputError(f"model.norm_k={k} must be finite and above 0")
    if size < 1 or size % 2 == 0:
        raise InputError(f"model.norm_size={size} must be odd")


def _odd(size: int) -> int:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"the window of a response norm must be odd, not {size}")
    return size


def _window_sum(x: Array, axes: tuple[int, ...], size: int, dtype: DTypeLike) -> Array:
    """Sum over a centred window along each axis; `dtype` is that of the features."""
    on_a_tpu = (
        functools.partial(window_by_band, size=size, dtype=dtype)
        if axes == (x.ndim - 1,)
        else functools.partial(window_by_xla, axes=axes, size=size)
    )
    by_slices = functools.partial(window_by_slices, axes=axes, size=size)
    return lax.platform_dependent(x, tpu=on_a_tpu, default=by_slices)


def window_by_slices(x: Array, *, axes: tuple[int, ...], size: int) -> Array:
    """Sums over a centred window along each axis, as sums of shifted slices."""
    for axis in axes:
        length = x.shape[axis]
        widths = [(0, 0)] * x.ndim
        widths[axis] = (size // 2, size // 2)
        padded = jnp.pad(x, widths)
        slices = [
            lax.slice_in_dim(padded, offset, offset + length, axis=axis)
            for offset in range(size)
        ]
        x = functools.reduce(jnp.add, slices)
    return x


def window_by_xla(x: Array, *, axes: tuple[int, ...], size: int) -> Array:
    """The same, in one window of all axes."""
    window = [size if axis in axes else 1 for axis in range(x.ndim)]
    around = [(length // 2, length // 2) for length in window]
    zero = jnp.zeros((), x.dtype)
    return lax.reduce_window(x, zero, lax.add, window, [1] * x.ndim, around)


def window_by_band(x: Array, *, size: int, dtype: DTypeLike) -> Array:
    """The same along the last axis, as a product with ones in a band around the
    diagonal, of values rounded to `dtype`; added up in the type of `x`."""
    square = (x.shape[-1],) * 2
    # Made by the program: an array would stand in the text of every other platform's.
    apart = lax.broadcasted_iota(np.int32, square, 0) - lax.broadcasted_iota(
        np.int32, square, 1
    )
    band = jnp.abs(apart) <= size // 2
    return jnp.matmul(
        x.astype(dtype),
        band.astype(dtype),
        # Of float32, all of it; half precision is one product in any case.
        precision=lax.Precision.HIGHEST,
        preferred_element_type=x.dtype,
    )


def _power(s: Array, beta: float) -> Array:
    """`s ** -beta` for positive `s`; the paper's 0.75 needs no logarithm."""
    if beta == 0.75:
        return lax.rsqrt(s * jnp.sqrt(s))
    if beta == 0.5:
        return lax.rsqrt(s)
    return lax.pow(s, jnp.asarray(-beta, s.dtype))


def _wide(x: Array) -> Array:
    return x.astype(np.promote_types(x.dtype, np.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def _response_norm(
    x: Array, axes: tuple[int, ...], size: int, k: float, alpha: float, beta: float
) -> Array:
    wide = _wide(x)
    s = k + alpha * _window_sum(wide * wide, axes, size, x.dtype)
    return (wide * _power(s, beta)).astype(x.dtype)


def _response_norm_forward(
    x: Array, axes: tuple[int, ...], size: int, k: float, alpha: float, beta: float
) -> tuple[Array, Array]:
    return _response_norm(x, axes, size, k, alpha, beta), x


def _response_norm_backward(
    axes: tuple[int, ...],
    size: int,
    k: float,
    alpha: float,
    beta: float,
    x: Array,
    g: Array,
) -> tuple[Array]:
    wide, g = _wide(x), _wide(g)
    s = k + alpha * _window_sum(wide * wide, axes, size, x.dtype)
    scaled = g * _power(s, beta)
    neighbours = _window_sum(scaled * wide / s, axes, size, x.dtype)
    return ((scaled - (2 * alpha * beta) * wide * neighbours).astype(x.dtype),)


_response_norm.defvjp(_response_norm_forward, _response_norm_backward)
