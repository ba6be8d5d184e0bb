"""Overlapping max pooling (section 3.4) with its derivative written by hand.

The maximum over a square window is taken along one axis, then along the other. The
derivative walks back the same way: along each axis, a value that equals its window's
maximum receives that window's gradient, as a sum of strided slices put back in their
places.
There is no select-and-scatter, which is slow on CPU and not deterministic on GPU.

Ties: in float32 **every** value equal to the maximum receives the whole gradient of its
window, as in the 2012 code. There ties are mostly zeros behind a ReLU, whose own
derivative is zero. In half precision neighbouring pixels that are alike give values
that tie once they are rounded, and each would count as often as there are: so **one**
of them receives the gradient, the first of its window by rows and then columns
(`experiments/accelerator/` measures both).

On a TPU, XLA's own window and select-and-scatter take their place: slices are copies in
its memory, a sixth of which these need (`experiments/targets/`). There the first
receives the gradient in float32 too. Sums of gradients are float32 everywhere.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.runtime.errors import InputError


_ROWS, _COLUMNS = -3, -2


def pooled_size(size: int, *, window: int, stride: int, partial: bool = False) -> int:
    """How many windows lie along a side of `size` values.

    With `partial` a last window may hang over the end; else the remainder is left out.
    """
    left = size - window
    return (-(-left // stride) if partial else left // stride) + 1


def max_pool(
    x: Float[Array, "*batch height width channels"],
    *,
    window: int,
    stride: int,
    partial: bool = False,
) -> Float[Array, "*batch rows columns channels"]:
    """Maximum over square windows; they overlap where `window > stride`.

    Args:
      x: activations with the channels last.
      window: side of the window, in values.
      stride: distance between windows, in values.
      partial: whether a last window may hang over the right and bottom border.

    Raises:
      ValueError: if a side of `x` is smaller than the window and `partial` is off.
    """
    _check_fits(x, window, partial)
    return _max_pool(x, window, stride, partial)


def average_pool(
    x: Float[Array, "*batch height width channels"],
    *,
    window: int,
    stride: int,
    partial: bool = False,
) -> Float[Array, "*batch rows columns channels"]:
    """The mean of the values in each window of `max_pool`, of those that lie inside
    where it hangs over the border. In half precision sums are float32.

    Raises:
      ValueError: as `max_pool` does.
    """
    _check_fits(x, window, partial)
    means = _wide(x)
    for axis in (_ROWS, _COLUMNS):
        means = _along(means, axis, window, stride, partial, jnp.add, 0.0)
        starts = stride * np.arange(means.shape[axis])
        inside = np.minimum(window, x.shape[axis] - starts).astype(means.dtype)
        shape = [1] * x.ndim
        shape[axis] = -1
        means = means / inside.reshape(shape)
    return means.astype(x.dtype)


def _check_fits(x: Array, window: int, partial: bool) -> None:
    height, width = x.shape[_ROWS], x.shape[_COLUMNS]
    if not partial and min(height, width) < window:
        raise ValueError(
            f"no window of {window}x{window} fits into {height}x{width} values"
        )


def check_windows(window: int, stride: int, partial: bool, cut: bool) -> None:
    """Raise an InputError if a network's settings of pooling do not fit together."""
    if not 1 <= stride <= window:
        raise InputError(
            f"model.pool_stride={stride} must lie from 1 to model.pool_window={window}"
        )
    if partial and cut:
        raise InputError("of model.pool_partial and model.pool_cut only one can be set")


def _is_half(x: Array) -> bool:
    return jnp.finfo(x.dtype).bits < 32


def _wide(x: Array) -> Array:
    return x.astype(np.promote_types(x.dtype, np.float32))


def _shared_rounding(x: Array) -> Array:
    """Make half precision real: XLA may otherwise carry `x` in float32 on one of the
    two ways, and no value would equal its own maximum."""
    if not _is_half(x):
        return x
    info = jnp.finfo(x.dtype)
    return lax.reduce_precision(x, info.nexp, info.nmant)


def _places(size: int, offset: int, stride: int, windows: int) -> tuple[int, int]:
    """Where the values at `offset` of each window start, and how many there are: at the
    border fewer than windows, where the last one is partial."""
    return offset, min(windows, -(-(size - offset) // stride))


def _maximum_along(
    x: Array, axis: int, window: int, stride: int, partial: bool
) -> Array:
    return _along(x, axis, window, stride, partial, jnp.maximum, -jnp.inf)


def _along(
    x: Array,
    axis: int,
    window: int,
    stride: int,
    partial: bool,
    combine: Callable[[Array, Array], Array],
    outside: float,
) -> Array:
    """The values of each window along an axis, combined."""
    axis = x.ndim + axis
    size = x.shape[axis]
    windows = pooled_size(size, window=window, stride=stride, partial=partial)
    slices = []
    for offset in range(window):
        start, count = _places(size, offset, stride, windows)
        piece = lax.slice_in_dim(
            x, start, start + stride * (count - 1) + 1, stride, axis
        )
        if count < windows:
            widths = [(0, 0)] * x.ndim
            widths[axis] = (0, windows - count)
            piece = jnp.pad(piece, widths, constant_values=outside)
        slices.append(piece)
    return functools.reduce(combine, slices)


def _spread_along(
    x: Array,
    maximum: Array,
    g: Array,
    axis: int,
    window: int,
    stride: int,
    first: bool,
) -> Array:
    """Give each window's gradient to the values of `x` equal to its maximum, or to the
    first of them."""
    axis = x.ndim + axis
    size, windows = x.shape[axis], maximum.shape[axis]
    pieces, earlier = [], None
    for offset in range(window):
        start, count = _places(size, offset, stride, windows)
        stop = start + stride * (count - 1) + 1
        values = lax.slice_in_dim(x, start, stop, stride, axis)
        hit = values == lax.slice_in_dim(maximum, 0, count, axis=axis)
        if first:
            equal = hit
            if earlier is not None:  # A later place is in as many windows, or fewer.
                earlier = lax.slice_in_dim(earlier, 0, count, axis=axis)
                hit, equal = hit & ~earlier, hit | earlier
            earlier = equal
        piece = jnp.where(hit, lax.slice_in_dim(g, 0, count, axis=axis), 0)
        config = [(0, 0, 0)] * x.ndim
        config[axis] = (start, size - stop, stride - 1)
        pieces.append(lax.pad(piece, jnp.zeros((), piece.dtype), config))
    return functools.reduce(jnp.add, pieces)


def _order(x: Array) -> tuple[int, int]:
    """The axis along which maxima are taken first, and the other. They are the same on
    both ways, so that XLA can share them. The way back chooses along the other axis
    first: in half precision a row of the window, and then a column."""
    return (_COLUMNS, _ROWS) if _is_half(x) else (_ROWS, _COLUMNS)


def pool_by_slices(
    x: Array, *, window: int, stride: int, partial: bool, wide: bool = False
) -> Array:
    """Maxima along one axis, then along the other; with `wide` of half precision in
    float32, which are the same."""
    inner, outer = _order(x)
    lines = _maximum_along(_wide(x) if wide else x, inner, window, stride, partial)
    return _maximum_along(lines, outer, window, stride, partial).astype(x.dtype)


def gradient_by_slices(
    x: Array, g: Array, *, window: int, stride: int, partial: bool, wide: bool = False
) -> Array:
    """The input's gradient, to every value that equals its window's maximum; in half
    precision to the first of them. `wide` as above."""
    first = _is_half(x)
    inner, outer = _order(x)
    x = _wide(x) if wide else x
    lines = _maximum_along(x, inner, window, stride, partial)
    maxima = _maximum_along(lines, outer, window, stride, partial)
    # Sums of gradients are carried in float32, as the other derivatives are.
    sums = _spread_along(lines, maxima, _wide(g), outer, window, stride, first)
    return _spread_along(x, lines, sums, inner, window, stride, first).astype(g.dtype)


def pool_by_xla(x: Array, *, window: int, stride: int, partial: bool) -> Array:
    """The same maxima, over whole windows."""
    axes = (x.ndim + _ROWS, x.ndim + _COLUMNS)
    windows, strides = [1] * x.ndim, [1] * x.ndim
    behind = [(0, 0)] * x.ndim
    for axis in axes:
        windows[axis], strides[axis] = window, stride
        size = x.shape[axis]
        count = pooled_size(size, window=window, stride=stride, partial=partial)
        behind[axis] = (0, max(0, (count - 1) * stride + window - size))
    return lax.reduce_window(x, -jnp.inf, lax.max, windows, strides, behind)


def gradient_by_xla(
    x: Array, g: Array, *, window: int, stride: int, partial: bool
) -> Array:
    """The input's gradient, to the first value that equals its window's maximum."""
    pool = functools.partial(pool_by_xla, window=window, stride=stride, partial=partial)
    _, pull_back = jax.vjp(pool, _wide(x))
    return pull_back(_wide(g))[0].astype(g.dtype)


def _ways(
    x: Array, by_xla: Callable[..., Array], by_slices: Callable[..., Array], **how: int
) -> dict[str, Callable[..., Array]]:
    """By platform, for `lax.platform_dependent`.

    For a CPU XLA computes each maximum of half precision in float32 and rounds it,
    which took as long as all else in the network (`experiments/benchmarks/train_step`).
    """
    ways = {
        "tpu": functools.partial(by_xla, **how),
        "default": functools.partial(by_slices, **how),
    }
    if _is_half(x):
        ways["cpu"] = functools.partial(by_slices, **how, wide=True)
    return ways


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, window: int, stride: int, partial: bool) -> Array:
    how = {"window": window, "stride": stride, "partial": partial}
    ways = _ways(x, pool_by_xla, pool_by_slices, **how)
    return lax.platform_dependent(_shared_rounding(x), **ways)


def _max_pool_forward(
    x: Array, window: int, stride: int, partial: bool
) -> tuple[Array, Array]:
    x = _shared_rounding(x)
    return _max_pool(x, window, stride, partial), x


def _max_pool_backward(
    window: int, stride: int, partial: bool, x: Array, g: Array
) -> tuple[Array]:
    how = {"window": window, "stride": stride, "partial": partial}
    ways = _ways(x, gradient_by_xla, gradient_by_slices, **how)
    return (lax.platform_dependent(x, g, **ways),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
