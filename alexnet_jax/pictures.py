"""Picture files to arrays and back: decode, resize, crop, encode."""

import io

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet_jax.errors import InputError


ENDINGS = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
RESIZE_FILTER = "bicubic"
JPEG_QUALITY = 95

Picture = UInt8[np.ndarray, "height width 3"]


def decode(data: bytes, name: str, *, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A picture file of any kind, as the paper prepares it (section 2).

    The short side becomes `size`, then the centre square is cut out. Greyscale, CMYK
    and palette pictures become RGB, transparent ones are laid on white, and the
    camera's orientation is applied.

    Args:
      data: the file's bytes.
      name: the file's name, for the error.
      size: side of the result, in pixels.

    Raises:
      InputError: if it can't be read as a picture.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            picture = square(to_rgb(image), size)
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not a picture; mend or remove it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{name} can't be read as a picture ({error}); mend or remove it"
        ) from error
    return np.asarray(picture)


def square(image: Image.Image, size: int) -> Image.Image:
    """Resize the short side to `size` and cut out the centre square."""
    short = min(image.size)
    width, height = (max(size, round(side * size / short)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as RGB, upright; what is transparent lies on white.

    Raises:
      ValueError: on whole or real numbers without a known range.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # Pillow would cut 16 bits off at 255 and not scale them.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def encode_jpeg(picture: Picture) -> bytes:
    """JPEG without colour subsampling losses beyond the usual 4:2:0 of photographs."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture), quality=JPEG_QUALITY, colorsubsampling="420"
    )


def decode_jpeg(data: bytes) -> Picture:
    """A JPEG that `encode_jpeg` made."""
    return simplejpeg.decode_jpeg(data)
