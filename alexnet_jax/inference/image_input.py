"""Images as Python users have them: names of files, PIL images, arrays of pixels."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from alexnet_jax.data import decoding
from alexnet_jax.runtime.errors import InputError, first_line
from alexnet_jax.runtime.paths import local


# Axes behind height and width: grey with transparency, RGB, and RGB with transparency.
CHANNELS = (2, 3, 4)


def stored(
    images: object, size: int, resize: str = "square"
) -> UInt8[np.ndarray, "batch size size 3"]:
    """Images as a network takes them: RGB, a square of `size` pixels a side.

    Args:
      images: one image, or any number of them. An image is a file's name, a PIL image,
        or an array of height x width x 3, of uint8 or other integers of 0 to 255; grey
        and transparent images become RGB. An array of four axes is a batch.
      size: side in pixels.
      resize: how an image becomes a square, one of `decoding.RESIZES`.

    Raises:
      InputError: if a file is missing or can't be read, or if it is not certain what an
        array means: floats, or channels that come first.
    """
    rows = [_stored(image, size, resize) for image in _several(images)]
    return np.stack(rows) if rows else np.zeros((0, size, size, 3), np.uint8)


def _several(images: object) -> Iterable[object]:
    if isinstance(images, str | bytes | os.PathLike | Image.Image):
        return [images]
    if hasattr(images, "shape"):
        array = np.asarray(images)
        # Text and objects: an array of names, or of images.
        return list(array) if array.ndim == 4 or array.dtype.kind in "OU" else [array]
    return images if isinstance(images, Iterable) else [images]


def _stored(image: object, size: int, resize: str) -> UInt8[np.ndarray, "size size 3"]:
    if isinstance(image, str | os.PathLike):
        path = local(Path(image) if isinstance(image, os.PathLike) else image)
        if not path.is_file():
            raise InputError(f"{path} is not a file")
        data = path.read_bytes()
        return decoding.decode(data, str(path), size=size, resize=resize).image
    if hasattr(image, "shape"):
        image = Image.fromarray(_pixels(np.asarray(image)))
    if not isinstance(image, Image.Image):
        raise InputError(
            "an image is a file's name, a PIL image or an array of pixels, and not "
            f"{type(image).__name__}"
        )
    try:
        return decoding.prepared(image, size, resize)
    except Exception as error:
        # A PIL image reads its file now, which makes Pillow raise nearly anything.
        raise InputError(f"an image can't be read ({first_line(error)})") from error


def _pixels(array: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """An array's pixels, if it is certain what they mean."""
    shape = array.shape
    if array.ndim == 3 and shape[2] == 1:
        array = array[..., 0]
    coloured = array.ndim == 3 and shape[2] in CHANNELS
    if not (coloured or array.ndim == 2) or 0 in shape:
        first = array.ndim == 3 and shape[0] in (1, *CHANNELS)
        raise InputError(
            f"an image is height x width x 3, and this array is of {shape}"
            + ("; put the channels last: image.transpose(1, 2, 0)" if first else "")
        )
    if array.dtype == np.uint8:
        return array
    whole = array.dtype.kind in "iu" and array.dtype != np.uint16
    if not whole or array.min() < 0 or array.max() > 255:
        raise InputError(
            f"an image of {array.dtype} has no certain range; give uint8 pixels of 0 "
            "to 255, as (255 * image).round().astype('uint8') for pixels of 0 to 1"
        )
    return array.astype(np.uint8)
