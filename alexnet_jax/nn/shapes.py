"""Which arguments of a network fit together, and which picture sizes fit it."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from alexnet_jax.nn.pooling import pooled_size
from alexnet_jax.runtime.errors import InputError, check_number


LARGEST_STEP = 4096
DTYPES = ("float32", "bfloat16")


def check_arguments(network: Any, *, activations: Iterable[str]) -> None:
    """Raise an InputError if the arguments of an `AlexNet` don't fit together."""
    convolutions, layers = len(network.channels), len(network.layers)
    check_number("model.towers", network.towers, least=1)
    for name, length in (
        ("kernel_sizes", convolutions),
        ("strides", convolutions),
        ("kernel_std", layers),
        ("bias", layers),
    ):
        if len(getattr(network, name)) != length:
            raise InputError(
                f"model.{name} has {len(getattr(network, name))} entries, but there "
                f"are {length} layers to give one each"
            )
    for name in (
        "exchanges",
        "pools",
        "norms",
        "norm_before_relu",
        "same_map_norms",
        "dropout_after",
    ):
        if unknown := set(getattr(network, name) or ()) - set(network.layers[:-1]):
            raise InputError(
                f"model.{name} names {', '.join(sorted(map(str, unknown)))}; "
                f"the layers are {', '.join(network.layers[:-1])}"
            )
    for name, known in (("activation", activations), ("dtype", DTYPES)):
        if getattr(network, name) not in known:
            raise InputError(
                f"model.{name}={getattr(network, name)!r} unknown; "
                f"choose from {', '.join(known)}"
            )
    for name in ("channels", "hidden", "kernel_sizes", "strides"):
        for value in getattr(network, name):
            check_number(f"a number of model.{name}", value, least=1, whole=True)
    for value in network.kernel_std:
        check_number("a number of model.kernel_std", value)
    for value in network.bias:
        check_number("a number of model.bias", value, least=-math.inf)
    for side, stride in zip(network.kernel_sizes, network.strides, strict=True):
        if stride == 1 and side % 2 == 0:
            raise InputError(
                f"model.kernel_sizes={tuple(network.kernel_sizes)} has kernels of "
                f"{side}; where model.strides is 1 they must be odd, to keep the size"
            )
    for width in (*network.channels, *network.hidden):
        if width % network.towers:
            raise InputError(
                f"a width of {width} does not divide over {network.towers} towers"
            )
    check_number("model.picture_padding", network.picture_padding)
    check_number("model.norm_alpha", network.norm_alpha)
    check_number("model.norm_beta", network.norm_beta)
    # Where all features in the window are zero, the power of the sum is that of k.
    if not 0 < network.norm_k < math.inf:
        raise InputError(f"model.norm_k={network.norm_k} must be finite and above 0")
    if network.norm_size < 1 or network.norm_size % 2 == 0:
        raise InputError(f"model.norm_size={network.norm_size} must be odd")
    if not 1 <= network.pool_stride <= network.pool_window:
        raise InputError(
            f"model.pool_stride={network.pool_stride} must lie from 1 to "
            f"model.pool_window={network.pool_window}"
        )
    if network.pool_partial and network.pool_cut:
        raise InputError("of model.pool_partial and model.pool_cut only one can be set")
    check_number("model.dropout", network.dropout, below=1)


def output_sides(
    side: int,
    *,
    convolutions: Sequence[tuple[int, int, bool]],
    pool_window: int,
    pool_stride: int,
    pool_partial: bool,
    pool_cut: bool,
) -> list[int] | None:
    """Side of the maps that leave each convolution's layer, or None if one won't fit.

    Args:
      side: of the picture, in pixels.
      convolutions: for each its kernel's side, its stride and whether it is pooled. One
        with a stride pads up to the next whole stride; one without keeps the side.
      pool_window, pool_stride, pool_partial: see `pooling.max_pool`.
      pool_cut: whether what fills no window may be left out.
    """
    sides = []
    for kernel, stride, pooled in convolutions:
        if stride > 1:
            side = -((kernel - side) // stride) + 1 if side >= kernel else 0
        if pooled:
            exact = (side - pool_window) % pool_stride == 0
            if side < pool_window or not (exact or pool_partial or pool_cut):
                return None
            side = pooled_size(
                side, window=pool_window, stride=pool_stride, partial=pool_partial
            )
        if side < 1:
            return None
        sides.append(side)
    return sides


def check_side(side: int, what: str, fits: Callable[[int], bool]) -> None:
    """Raise an InputError that names the nearest sizes if one doesn't fit."""
    if fits(side):
        return
    below = next((n for n in range(side, 0, -1) if fits(n)), None)
    above = next((n for n in range(side, side + LARGEST_STEP) if fits(n)), None)
    nearest = " and ".join(str(n) for n in (below, above) if n is not None)
    raise InputError(
        f"pictures of {what} {side} do not fit this network's windows; "
        f"the nearest sizes that do: {nearest}"
    )
