"""Which image sizes fit a network's windows, and how large its maps are."""

from collections.abc import Callable, Iterable

from alexnet_jax.nn.layers import POOLS, Conv
from alexnet_jax.nn.pooling import pooled_size
from alexnet_jax.runtime.errors import InputError


LARGEST_STEP = 4096


def output_sides(
    side: int,
    *,
    convolutions: Iterable[Conv],
    pool_window: int,
    pool_stride: int,
    pool_partial: bool,
    pool_cut: bool,
) -> list[int] | None:
    """Side of the maps that leave each convolution's layer, or None if one won't fit.

    Args:
      side: of the image, in pixels.
      convolutions: in order. One with a stride pads up to the next whole stride; one
        without keeps the side.
      pool_window, pool_stride, pool_partial: see `pooling.max_pool`.
      pool_cut: whether what fills no window may be left out.
    """
    sides = []
    for row in convolutions:
        if row.stride > 1:
            fits = side >= row.kernel
            side = -((row.kernel - side) // row.stride) + 1 if fits else 0
        if any(pool in row.then for pool in POOLS):
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
        f"images of {what} {side} do not fit this network's windows; "
        f"the nearest sizes that do: {nearest}"
    )
