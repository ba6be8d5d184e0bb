"""A convolution whose kernel gradient, and strided form, are written by hand.

XLA's CPU compiler computes the gradient of a convolution's kernel as a convolution with
a window as large as an image, at a third of the processor's rate. The same sum is, for
every place of the kernel (a tap), one matrix product of the pixels under that tap with
the gradient:

    dw[i, j] = (x shifted by i, j)' dy

A strided convolution (conv1: 11x11 kernels, 3 colours, stride 4) would give products of
three rows. Its input is first folded, so that the pixels of one stride become channels
(space to depth): 3x3 taps of 48 channels, stride 1.

On GPU and TPU XLA computes the kernel's gradient well, but has no fast way for three
channels: the units take 8 or 16 at once. There the folded form replaces a strided
convolution, for the output and the kernel's gradient. The sums are the same.

The CPU's ways are measured in `experiments/benchmarks/kernel_gradient.py`, the folded
form on a GPU in `experiments/accelerator/`.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.nn.products import Linear, derived, on_one_input


_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "side side channels kernels"],
    stride: int,
) -> Float[Array, "batch rows columns kernels"]:
    """A convolution with one tower's kernel; see `convolve_shared`."""
    return convolve_shared(x, [kernel], stride)[0]


def convolve_shared(
    x: Float[Array, "batch height width channels"],
    kernels: Sequence[Float[Array, "side side channels kernels"]],
    stride: int,
) -> list[Float[Array, "batch rows columns kernels"]]:
    """The convolutions of one input with several towers' kernels, in the type of `x`.

    With a stride above 1, zeros at the right and bottom fill up the last stride, as in
    the 2012 code; with stride 1 the size is kept, for odd sides.

    Inside `shard_map` all must vary over the same mesh axes (`lax.pcast`): JAX can't
    derive what varies from a derivative that is written by hand.
    """
    kernels = [kernel.astype(x.dtype) for kernel in kernels]
    return on_one_input(*_ways(stride), x, kernels)


def padding(length: int, side: int, stride: int) -> tuple[int, int]:
    """Zeros before and behind `length` values."""
    return (0, (side - length) % stride) if stride > 1 else (side // 2, side // 2)


@functools.cache
def _ways(stride: int) -> tuple[Linear, Linear]:
    """How a CPU and how other platforms convolve."""
    plain = derived(functools.partial(plain_convolution, stride=stride))
    by_taps = functools.partial(kernel_gradient_by_taps, stride=stride)
    if stride == 1:
        return plain._replace(kernel_gradient=by_taps), plain
    folded = derived(functools.partial(folded_convolution, stride=stride))
    return (
        plain._replace(kernel_gradient=by_taps),
        folded._replace(input_gradient=plain.input_gradient),
    )


def plain_convolution(x: Array, kernel: Array, *, stride: int) -> Array:
    """The convolution as XLA has it."""
    around = [padding(length, kernel.shape[0], stride) for length in x.shape[1:3]]
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), around, dimension_numbers=_LAYOUT
    )


def folded_convolution(x: Array, kernel: Array, *, stride: int) -> Array:
    """The same for a stride above 1, with the pixels of one stride as channels."""
    side = kernel.shape[0]
    folded_side = -(-side // stride)
    more = folded_side * stride - side
    kernel = jnp.pad(kernel, ((0, more), (0, more), (0, 0), (0, 0)))
    kernel = kernel.reshape(
        folded_side, stride, folded_side, stride, *kernel.shape[2:]
    ).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(folded_side, folded_side, -1, kernel.shape[-1])
    return lax.conv_general_dilated(
        _folded(x, side, stride), kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT
    )


def kernel_gradient_by_xla(x: Array, kernel: Array, dy: Array, *, stride: int) -> Array:
    """The kernel's gradient as JAX derives it, from the gradient of the output."""
    plain = derived(functools.partial(plain_convolution, stride=stride))
    return plain.kernel_gradient(x, kernel, dy)


def kernel_gradient_by_taps(
    x: Array, kernel: Array, dy: Array, *, stride: int
) -> Array:
    """The same, a matrix product for each tap; the kernel only gives its shape."""
    side = kernel.shape[0]
    if stride == 1:
        around = [padding(length, side, stride) for length in x.shape[1:3]]
        return _taps(jnp.pad(x, [(0, 0), *around, (0, 0)]), dy, side)
    folded_side = -(-side // stride)
    channels, kernels = x.shape[-1], dy.shape[-1]
    gradient = _taps(_folded(x, side, stride), dy, folded_side)
    gradient = gradient.reshape(
        folded_side, folded_side, stride, stride, channels, kernels
    )
    gradient = gradient.transpose(0, 2, 1, 3, 4, 5)
    # The folded kernel reaches past the real one: those taps are cut off.
    whole = folded_side * stride
    return gradient.reshape(whole, whole, channels, kernels)[:side, :side]


def _folded(x: Array, side: int, stride: int) -> Array:
    """An input with each square of stride x stride pixels as one, channels in a row.

    Zeros behind it fill up the last stride of the last window.
    """
    batch, *lengths, channels = x.shape
    padded = [n + sum(padding(n, side, stride)) for n in lengths]
    windows = [(n - side) // stride + 1 for n in padded]
    rows, columns = (n + -(-side // stride) - 1 for n in windows)
    behind = [(0, rows * stride - lengths[0]), (0, columns * stride - lengths[1])]
    x = jnp.pad(x, [(0, 0), *behind, (0, 0)])
    x = x.reshape(batch, rows, stride, columns, stride, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows, columns, stride * stride * channels)


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
