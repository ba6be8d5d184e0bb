"""From stored uint8 images to what the network sees, on the device (section 4.1)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8


def shift_colours(
    images: UInt8[Array, "batch height width 3"],
    mean: Float[Array, "height width 3"],
    shift: Float[Array, "batch 3"],
    coefficient: Float[Array, ""],
) -> Float[Array, "batch height width 3"]:
    """Subtract the mean image and add the colour shift (section 4.1).

    The 2012 code divides by 1 + coefficient, so that pixels have about the same scale
    with colour noise and without; with a coefficient of 0 this is the plain difference.

    Args:
      images: crops, 0 to 255.
      mean: the mean image's centre crop.
      shift: each image's draw along the principal directions of colour, in grey levels.
      coefficient: how much of it is added; 0.1 in the 2012 code.
    """
    shifted = images.astype(jnp.float32) - mean[None]
    shifted = shifted + coefficient * shift[:, None, None, :]
    return shifted / (1 + coefficient)


def mix_pairs(
    images: Float[Array, "batch height width 3"], weight: Float[Array, "batch"]
) -> Float[Array, "batch height width 3"]:
    """Mix each image with its partner, the other one of the first and second, third and
    fourth, and so on (mixup, Zhang et al. 2018).

    Partners lie on one device, so that the number of devices changes nothing; a batch
    is in random order.

    Args:
      images: an even number of them on each device.
      weight: of the image itself; its partner has the rest of 1.
    """
    own = weight[:, None, None, None]
    return own * images + (1 - own) * _partners(images)


def paste_pairs(
    images: Float[Array, "batch height width 3"], patch: Int[Array, "batch 4"]
) -> Float[Array, "batch height width 3"]:
    """Replace a patch of each image by its partner's pixels at the same place (CutMix,
    Yun et al. 2019); for partners see `mix_pairs`.

    Args:
      images: an even number of them on each device.
      patch: top, left, height and width, the same for both of a pair.
    """
    top, left, height, width = (patch[:, n, None] for n in range(4))
    rows = jnp.arange(images.shape[1], dtype=patch.dtype)[None]
    columns = jnp.arange(images.shape[2], dtype=patch.dtype)[None]
    in_rows = (rows >= top) & (rows < top + height)
    in_columns = (columns >= left) & (columns < left + width)
    inside = in_rows[:, :, None, None] & in_columns[:, None, :, None]
    return jnp.where(inside, _partners(images), images)


def _partners(images: Array) -> Array:
    """The other image of each one's pair."""
    pairs = images.reshape(-1, 2, *images.shape[1:])
    return pairs[:, ::-1].reshape(images.shape)


def cut_views(
    images: UInt8[Array, "batch size size 3"],
    *,
    crop: int,
    views: int,
    mirrors: bool = True,
) -> UInt8[Array, "batch views crop crop 3"]:
    """The centre crop, or the ten views of section 4.1: corners, centre, flips.

    Args:
      images: whole stored images.
      crop: side of the crop, in pixels.
      views: 1 or 10.
      mirrors: whether the ten views have flipped ones; without them they are five. A
        network that was trained without horizontal flips, as on digits, should not be
        evaluated on flipped images.

    Raises:
      ValueError: if `views` is neither 1 nor 10.
    """
    if views not in (1, 10):
        raise ValueError(f"{views} views; an image has 1 or 10")
    border = images.shape[1] - crop
    middle = border // 2
    places = [(middle, middle)]
    if views == 10:
        places = [(0, 0), (0, border), *places, (border, 0), (border, border)]
    cut = [
        images[:, row : row + crop, column : column + crop] for row, column in places
    ]
    if views == 10 and mirrors:
        cut += [view[:, :, ::-1] for view in cut]
    return jnp.stack(cut, axis=1)
