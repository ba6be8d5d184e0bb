"""Operations of colour and geometry on training crops, on the device.

RandAugment (Cubuk et al. 2020) chooses for each image some of a list of operations, all
of one strength. Here the geometric ones of an image come first and are one map of its
pixels, so that they are interpolated once; its operations of colour follow in their
order. The greatest strengths are those of torchvision's RandAugment. What is drawn is
in `data/loading/later_recipes.py`.

With a strength of s, from -1 to 1, an operation

    autocontrast    stretches each colour to 0 to 255, whatever s
    brightness      multiplies by 1 + 0.9 s
    contrast        the same, of the differences from the image's mean grey
    saturation      the same, of the differences from each pixel's own grey
    posterize       keeps 8 - 4 |s| bits of each value
    solarize        inverts values from 256 (1 - |s|) on
    rotate          turns by 30 s degrees
    shear_x/y       shears by 0.3 s
    translate_x/y   moves by 0.45 s of the image's side

and pixels from outside the image are grey.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from alexnet_jax.data.loading.later_recipes import OPERATIONS


ENHANCE, BITS, DEGREES, SHEAR, MOVE = 0.9, 4, 30.0, 0.3, 0.45
OUTSIDE = 128.0
# Of red, green and blue in grey, as in ITU-R BT.601.
GREY = (0.299, 0.587, 0.114)

_Colours = Callable[[Array, Array], Array]


def operate(
    images: UInt8[Array, "batch size size 3"],
    operation: Int[Array, "batch operations"],
    strength: Float[Array, "batch operations"],
) -> UInt8[Array, "batch size size 3"]:
    """Each image after its operations.

    Args:
      images: crops, 0 to 255.
      operation: places in `OPERATIONS`.
      strength: of each, from -1 to 1.
    """
    return jax.vmap(_operate)(images, operation, strength)


def _operate(image: Array, operation: Array, strength: Array) -> Array:
    maps = [_map(*one) for one in zip(operation, strength, strict=True)]
    pixels = image.astype(jnp.float32)
    # Of an output's place, so that the last operation comes first.
    matrix = maps[0]
    for later in maps[1:]:
        matrix = jnp.matmul(matrix, later, precision="highest")
    pixels = jnp.where(
        (matrix == jnp.eye(3)).all(), pixels, _whole(_warped(pixels, matrix))
    )
    for kind, amount in zip(operation, strength, strict=True):
        changed = [_whole(change(pixels, amount)) for change in COLOURS.values()]
        is_it = [kind == OPERATIONS.index(name) for name in COLOURS]
        pixels = jnp.select(is_it, changed, pixels)
    return pixels.astype(jnp.uint8)


def _whole(pixels: Array) -> Array:
    return jnp.clip(jnp.round(pixels), 0, 255)


def _map(kind: Array, strength: Array) -> Float[Array, "3 3"]:
    """From a place in the output (column, row, 1), in sides of the image from its
    middle, to where its pixel comes from; the identity for operations of colour."""
    zero, one = jnp.zeros_like(strength), jnp.ones_like(strength)
    angle = jnp.deg2rad(DEGREES * strength)
    turn, side = jnp.cos(angle), jnp.sin(angle)
    rows = {
        "rotate": ((turn, side, zero), (-side, turn, zero)),
        "shear_x": ((one, SHEAR * strength, zero), (zero, one, zero)),
        "shear_y": ((one, zero, zero), (SHEAR * strength, one, zero)),
        "translate_x": ((one, zero, MOVE * strength), (zero, one, zero)),
        "translate_y": ((one, zero, zero), (zero, one, MOVE * strength)),
    }
    is_it = [kind == OPERATIONS.index(name) for name in rows]
    last = (zero, zero, one)
    maps = [jnp.stack([jnp.stack(r) for r in (*two, last)]) for two in rows.values()]
    return jnp.select(is_it, maps, jnp.eye(3, dtype=strength.dtype))


def _warped(pixels: Array, matrix: Array) -> Array:
    """The image whose pixels come from where a map says, by bilinear interpolation."""
    size = pixels.shape[0]
    middles = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size - 0.5
    column, row = middles[None, :], middles[:, None]
    x, y = ((m[0] * column + m[1] * row + m[2] + 0.5) * size for m in matrix[:2])
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)

    def between(place: Array) -> tuple[Array, Array, Array]:
        place = jnp.clip(place - 0.5, 0, size - 1)
        first = jnp.floor(place)
        second = jnp.minimum(first + 1, size - 1)
        places = (first.astype(jnp.int32), second.astype(jnp.int32))
        return *places, (place - first)[..., None]

    (left, right, across), (top, bottom, down) = between(x), between(y)
    above = (1 - across) * pixels[top, left] + across * pixels[top, right]
    below = (1 - across) * pixels[bottom, left] + across * pixels[bottom, right]
    found = (1 - down) * above + down * below
    return jnp.where(inside[..., None], found, OUTSIDE)


def _grey(pixels: Array) -> Array:
    red, green, blue = (pixels[..., colour, None] for colour in range(3))
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def _autocontrast(pixels: Array, strength: Array) -> Array:
    low, high = (f(pixels, axis=(0, 1), keepdims=True) for f in (jnp.min, jnp.max))
    stretched = (pixels - low) * (255 / jnp.maximum(high - low, 1))
    return jnp.where(high > low, stretched, pixels)


def _enhanced(pixels: Array, strength: Array, base: Array | float) -> Array:
    return base + (1 + ENHANCE * strength) * (pixels - base)


def _posterized(pixels: Array, strength: Array) -> Array:
    step = jnp.exp2(jnp.round(BITS * jnp.abs(strength)))
    return step * jnp.floor(pixels / step)


def _solarized(pixels: Array, strength: Array) -> Array:
    return jnp.where(pixels < 256 * (1 - jnp.abs(strength)), pixels, 255 - pixels)


COLOURS: dict[str, _Colours] = {
    "autocontrast": _autocontrast,
    "brightness": lambda pixels, s: _enhanced(pixels, s, 0.0),
    "contrast": lambda pixels, s: _enhanced(
        pixels, s, jnp.round(jnp.mean(_whole(_grey(pixels))))
    ),
    "saturation": lambda pixels, s: _enhanced(pixels, s, _whole(_grey(pixels))),
    "posterize": _posterized,
    "solarize": _solarized,
}
