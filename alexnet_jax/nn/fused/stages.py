"""What follows a convolution as one differentiable function of its values and bias."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.nn import lrn
from alexnet_jax.nn.fused.launch import LARGEST, Arrays, Way
from alexnet_jax.nn.fused.norm_map_pool import NormMapPool
from alexnet_jax.nn.fused.norm_pool import NormPool
from alexnet_jax.nn.fused.pool import Pool, Rectify
from alexnet_jax.nn.fused.powers import Norm


Kind = NormPool | NormMapPool | Pool | Rectify
Values = Float[Array, "batch height width channels"]
Biases = Float[Array, " channels"]
MAP_NORM = Norm(lrn.SAME_MAP_K, lrn.SAME_MAP_ALPHA)

# The steps that one stage takes, in their order.
KINDS: dict[tuple[str, ...], Callable[[Norm, int, Way], Kind]] = {
    ("norm", "activation", "pool"): (
        lambda norm, towers, way: NormPool(norm, False, towers, way)
    ),
    ("activation", "norm", "pool"): (
        lambda norm, towers, way: NormPool(norm, True, towers, way)
    ),
    ("activation", "norm", "same_map_norm", "pool"): (
        lambda norm, towers, way: NormMapPool(norm, MAP_NORM, way)
    ),
    ("activation", "pool"): lambda norm, towers, way: Pool(way),
    ("activation",): lambda norm, towers, way: Rectify(towers, way),
}
# Those that take several towers side by side; they are what follows conv1 and conv3,
# whose towers share an input.
OF_TOWERS = (
    ("norm", "activation", "pool"),
    ("activation", "norm", "pool"),
    ("activation",),
)


def stage(
    steps: tuple[str, ...], norm: Norm, way: Way
) -> Callable[[Values, Biases], Array]:
    """The function from a convolution's values, in bfloat16, and its bias, in float32,
    to the values after these steps, in bfloat16.

    Values are those of `nn/lrn.py` and `nn/pooling.py` to rounding. The gradient of the
    bias is summed in float32.

    Args:
      steps: a key of `KINDS`.
      norm: the constants of `norm` in steps.
      way: where the kernels run.
    """
    take = stage_of_towers(steps, norm, way, 1)
    return lambda y, bias: take(y, bias)[0]


def stage_of_towers(
    steps: tuple[str, ...], norm: Norm, way: Way, towers: int
) -> Callable[[Values, Biases], Arrays]:
    """The same for so many towers, whose channels and biases lie side by side; the
    result is an array a tower."""
    assert towers == 1 or steps in OF_TOWERS
    return functools.partial(_run, KINDS[steps](norm, towers, way))


def _run(kind: Kind, y: Array, bias: Array) -> Arrays:
    # Where a bias is the same on several devices, its gradient is the sum over them:
    # the derivative of this cast.
    missing = _varying(y) - _varying(bias)
    if missing:
        bias = lax.pcast(bias, tuple(missing), to="varying")
    if y.size <= LARGEST:
        return _stage(kind, y, bias)
    halves = [_run(kind, half, bias) for half in jnp.array_split(y, 2)]
    return tuple(jnp.concatenate(parts) for parts in zip(*halves, strict=True))


def _varying(array: Array) -> frozenset[str]:
    return jax.typeof(array).manual_axis_type.varying


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stage(kind: Kind, y: Array, bias: Array) -> Arrays:
    return kind.forward(y, bias)[0]


def _forward(kind: Kind, y: Array, bias: Array) -> tuple[Arrays, Arrays]:
    return kind.forward(y, bias)


def _backward(kind: Kind, kept: Arrays, gradients: Arrays) -> tuple[Array, Array]:
    return kind.backward(kept, gradients)


_stage.defvjp(_forward, _backward)
