"""Linear operations of the towers that a device holds, each as its platform does best.

A tower's output is linear in its input and in its kernel, so an operation is three
functions: its output, and the gradients of the two. A CPU takes them a tower at a time,
which gives the same bits whether a device holds one tower or two. Where towers that a
GPU or TPU holds see one input (conv1, and the layers with `exchange`), their kernels
side by side make one product: the input is read once.

The platform is chosen when a program is lowered (`lax.platform_dependent`), and not
when it is traced: a traced step names no device, and can be lowered for one that is not
there. What is lowered for one platform holds nothing of the other.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


class Linear(NamedTuple):
    """One tower's linear operation, whose kernel has its outputs in the last axis.

    Attributes:
      output: from an input and a kernel.
      input_gradient: from an input, a kernel and the output's gradient; the input gives
        its shape alone.
      kernel_gradient: the same for the kernel's.
    """

    output: Callable[[Array, Array], Array]
    input_gradient: Callable[[Array, Array, Array], Array]
    kernel_gradient: Callable[[Array, Array, Array], Array]


def derived(output: Callable[[Array, Array], Array]) -> Linear:
    """An operation whose gradients are those that JAX derives."""

    def input_gradient(x: Array, kernel: Array, dy: Array) -> Array:
        (gradient,) = jax.linear_transpose(lambda x: output(x, kernel), x)(dy)
        return gradient

    def kernel_gradient(x: Array, kernel: Array, dy: Array) -> Array:
        (gradient,) = jax.linear_transpose(lambda w: output(x, w), kernel)(dy)
        return gradient

    return Linear(output, input_gradient, kernel_gradient)


_MATRIX_PRODUCT = derived(jnp.matmul)


def _rounded_product(x: Array, kernel: Array) -> Array:
    product = jnp.matmul(x, kernel, preferred_element_type=np.float32)
    return product.astype(x.dtype)


# Of half precision on a CPU. XLA hands a product whose result is float32 to a library
# as it stands, which has kernels for AVX512-BF16 and AMX; operands of any other it
# converts to float32 first (`experiments/benchmarks/train_step/README.md`). The
# kernel's gradient, which contracts the first axis of both, is converted either way.
_HALF_ON_A_CPU = _MATRIX_PRODUCT._replace(
    output=_rounded_product,
    input_gradient=lambda x, kernel, dy: _rounded_product(dy, kernel.T),
)


def multiply_shared(
    x: Float[Array, "batch inputs"], kernels: Sequence[Float[Array, "inputs outputs"]]
) -> list[Float[Array, "batch outputs"]]:
    """The matrix products of one input with several towers' kernels, in the type of
    `x`."""
    kernels = [kernel.astype(x.dtype) for kernel in kernels]
    half = jnp.finfo(x.dtype).bits < 32
    cpu = _HALF_ON_A_CPU if half else _MATRIX_PRODUCT
    return on_one_input(cpu, _MATRIX_PRODUCT, x, kernels)


def in_each_tower(
    product: Callable[[Array, Sequence[Array]], list[Array]],
    xs: Sequence[Array],
    kernels: Sequence[Array],
) -> list[Array]:
    """A product of each tower's input with its kernel; of one input with all kernels
    where the towers share it. The product takes an input and kernels."""
    if all(x is xs[0] for x in xs):
        return product(xs[0], kernels)
    return [product(x, [k])[0] for x, k in zip(xs, kernels, strict=True)]


class Towers(NamedTuple):
    """The same operation for several towers that see one input.

    Attributes:
      outputs: from an input and the towers' kernels.
      input_gradient: from an input, the kernels and the outputs' gradients.
      kernel_gradients: the same for the kernels'.
    """

    outputs: Callable[[Array, Sequence[Array]], list[Array]]
    input_gradient: Callable[[Array, Sequence[Array], Sequence[Array]], Array]
    kernel_gradients: Callable[[Array, Sequence[Array], Sequence[Array]], list[Array]]


def one_by_one(linear: Linear) -> Towers:
    """A product for each tower."""

    def outputs(x: Array, kernels: Sequence[Array]) -> list[Array]:
        return [linear.output(x, kernel) for kernel in kernels]

    def input_gradient(
        x: Array, kernels: Sequence[Array], dys: Sequence[Array]
    ) -> Array:
        towers = zip(kernels, dys, strict=True)
        gradients = [linear.input_gradient(x, kernel, dy) for kernel, dy in towers]
        # In the order in which JAX adds them, from the last use of `x` on.
        return functools.reduce(jnp.add, reversed(gradients))

    def kernel_gradients(
        x: Array, kernels: Sequence[Array], dys: Sequence[Array]
    ) -> list[Array]:
        towers = zip(kernels, dys, strict=True)
        return [linear.kernel_gradient(x, kernel, dy) for kernel, dy in towers]

    return Towers(outputs, input_gradient, kernel_gradients)


def side_by_side(linear: Linear) -> Towers:
    """One product for all towers."""

    def outputs(x: Array, kernels: Sequence[Array]) -> list[Array]:
        ys = _split(linear.output(x, _joined(kernels)), len(kernels))
        # Each tower's part is stored once, in its type. XLA would otherwise cut it out
        # of the whole in every use, and carry it on in float32: on an H100 a sixth more
        # memory (compiled for one, batch 1,024 in bfloat16: 8.8 GB against 7.6).
        return ys if len(ys) == 1 else lax.optimization_barrier(ys)

    def input_gradient(
        x: Array, kernels: Sequence[Array], dys: Sequence[Array]
    ) -> Array:
        return linear.input_gradient(x, _joined(kernels), _joined(dys))

    def kernel_gradients(
        x: Array, kernels: Sequence[Array], dys: Sequence[Array]
    ) -> list[Array]:
        gradient = linear.kernel_gradient(x, _joined(kernels), _joined(dys))
        return _split(gradient, len(kernels))

    return Towers(outputs, input_gradient, kernel_gradients)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def on_one_input(
    cpu: Linear, other: Linear, x: Array, kernels: Sequence[Array]
) -> list[Array]:
    """The outputs of all kernels on one input.

    Inside `shard_map` all must vary over the same mesh axes (`lax.pcast`): JAX can't
    derive what varies from a derivative that is written by hand.

    Args:
      cpu: how a CPU computes, one by one.
      other: how other platforms compute, side by side.
      x: the input.
      kernels: of equal shapes.
    """
    if len(kernels) == 1 and cpu.output == other.output:
        return [cpu.output(x, kernels[0])]
    return lax.platform_dependent(
        x,
        kernels,
        cpu=one_by_one(cpu).outputs,
        default=side_by_side(other).outputs,
    )


def _forward(
    cpu: Linear, other: Linear, x: Array, kernels: Sequence[Array]
) -> tuple[list[Array], tuple[Array, Sequence[Array]]]:
    return on_one_input(cpu, other, x, kernels), (x, kernels)


def _backward(
    cpu: Linear,
    other: Linear,
    kept: tuple[Array, Sequence[Array]],
    dys: list[Array],
) -> tuple[Array, list[Array]]:
    x, kernels = kept
    apart, together, one = one_by_one(cpu), side_by_side(other), len(kernels) == 1
    # Two choices, so that a gradient which nobody asks for is not computed.
    if one and cpu.input_gradient == other.input_gradient:
        dx = apart.input_gradient(x, kernels, dys)
    else:
        dx = lax.platform_dependent(
            x,
            kernels,
            dys,
            cpu=apart.input_gradient,
            default=together.input_gradient,
        )
    if one and cpu.kernel_gradient == other.kernel_gradient:
        return dx, apart.kernel_gradients(x, kernels, dys)
    dkernels = lax.platform_dependent(
        x,
        kernels,
        dys,
        cpu=apart.kernel_gradients,
        default=together.kernel_gradients,
    )
    return dx, dkernels


on_one_input.defvjp(_forward, _backward)


def _joined(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays, axis=-1)


def _split(array: Array, parts: int) -> list[Array]:
    return [array] if parts == 1 else jnp.split(array, parts, axis=-1)
