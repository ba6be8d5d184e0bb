"""A convolution whose kernel gradient is written by hand.

XLA's CPU compiler computes the gradient of a convolution's kernel as a convolution with
a window as large as an image, at a third of the processor's rate. The same sum is, for
every place of the kernel (a tap), one matrix product of the pixels under that tap with
the gradient:

    dw[i, j] = (x shifted by i, j)' dy

A strided convolution (conv1: 11x11 kernels, 3 colours, stride 4) would give products of
three rows. Its input is first folded, so that the pixels of one stride become channels
(space to depth): 3x3 taps of 48 channels, stride 1.

XLA computes the values and the input's gradient, which it does well. On GPU and TPU it
computes the kernel's gradient too. Measured in
`experiments/benchmarks/kernel_gradient.py`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "side side channels kernels"],
    stride: int,
) -> Float[Array, "batch rows columns kernels"]:
    """A convolution, in the type of `x`.

    With a stride above 1, zeros at the right and bottom fill up the last stride, as in
    the 2012 code; with stride 1 the size is kept, for odd sides.

    Inside `shard_map` both must vary over the same mesh axes (`lax.pcast`): JAX can't
    derive what varies from a derivative that is written by hand.
    """
    return _convolve(x, kernel.astype(x.dtype), stride)


def padding(length: int, side: int, stride: int) -> tuple[int, int]:
    """Zeros before and behind `length` values."""
    return (0, (side - length) % stride) if stride > 1 else (side // 2, side // 2)


def _plain(x: Array, kernel: Array, stride: int) -> Array:
    """The convolution as XLA has it."""
    around = [padding(length, kernel.shape[0], stride) for length in x.shape[1:3]]
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), around, dimension_numbers=_LAYOUT
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    return _plain(x, kernel, stride)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel, stride), (x, kernel)


def _backward(stride: int, kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = kept
    (dx,) = jax.linear_transpose(lambda x: _plain(x, kernel, stride), x)(dy)
    dkernel = lax.platform_dependent(
        x,
        kernel,
        dy,
        cpu=functools.partial(kernel_gradient_by_taps, stride=stride),
        default=functools.partial(kernel_gradient_by_convolution, stride=stride),
    )
    return dx, dkernel


_convolve.defvjp(_forward, _backward)


def kernel_gradient_by_convolution(
    x: Array, kernel: Array, dy: Array, *, stride: int
) -> Array:
    """The kernel's gradient as XLA derives it, from the gradient of the output."""
    (gradient,) = jax.linear_transpose(lambda w: _plain(x, w, stride), kernel)(dy)
    return gradient


def kernel_gradient_by_taps(
    x: Array, kernel: Array, dy: Array, *, stride: int
) -> Array:
    """The same, a matrix product for each tap; the kernel only gives its shape."""
    side = kernel.shape[0]
    if stride == 1:
        around = [padding(length, side, stride) for length in x.shape[1:3]]
        return _taps(jnp.pad(x, [(0, 0), *around, (0, 0)]), dy, side)
    # The folded kernel reaches past the real one, and the folded image past the last
    # window: over zeros, and those taps are cut off.
    folded_side = -(-side // stride)
    rows, columns = (length + folded_side - 1 for length in dy.shape[1:3])
    height, width = x.shape[1:3]
    behind = [(0, rows * stride - height), (0, columns * stride - width)]
    x = jnp.pad(x, [(0, 0), *behind, (0, 0)])
    batch, channels, kernels = x.shape[0], x.shape[-1], dy.shape[-1]
    x = x.reshape(batch, rows, stride, columns, stride, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, rows, columns, stride * stride * channels)
    gradient = _taps(x, dy, folded_side)
    gradient = gradient.reshape(
        folded_side, folded_side, stride, stride, channels, kernels
    )
    gradient = gradient.transpose(0, 2, 1, 3, 4, 5)
    whole = folded_side * stride
    return gradient.reshape(whole, whole, channels, kernels)[:side, :side]


def _taps(x: Array, dy: Array, side: int) -> Array:
    rows, columns = dy.shape[1:3]
    flat = dy.reshape(-1, dy.shape[-1])

    def row(first: Array) -> Array:
        band = lax.dynamic_slice_in_dim(x, first, rows, axis=1)
        taps = [
            lax.dot_general(
                band[:, :, column : column + columns].reshape(-1, x.shape[-1]),
                flat,
                (((0,), (0,)), ((), ())),
            )
            for column in range(side)
        ]
        return jnp.stack(taps)

    # A loop, so that the copies of one row of taps alone are in memory.
    return lax.map(row, jnp.arange(side, dtype=jnp.int32))
