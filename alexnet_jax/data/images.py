"""Picture files to arrays and back: decode, resize, crop, encode.

Files come from strangers: what a decoder would have to do is read off the header first,
and refused where it is too much.
"""

import io
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from alexnet_jax.runtime.errors import InputError, first_line


FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg"),
    "PNG": (".png",),
    "PPM": (".ppm",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)
RESIZE_FILTER = "bicubic"
JPEG_QUALITY = 95

MAX_BYTES = 2**28
MAX_PIXELS = 2**26
# Every scan of a progressive JPEG goes over all of its pixels.
MAX_PIXELS_SCANNED = 2**31
# Larger pictures are decoded one at a time, so that many threads keep within memory.
LARGE_PIXELS = 2**24
_large = threading.Lock()

Picture = UInt8[np.ndarray, "height width 3"]


class Decoded(NamedTuple):
    """A picture and what had to be mended in its file, in words."""

    picture: UInt8[np.ndarray, "size size 3"]
    mended: tuple[str, ...]


def decode(data: bytes, name: str, *, size: int) -> Decoded:
    """A picture file of any kind, as the paper prepares it (section 2).

    The short side becomes `size`, then the centre square is cut out. Greyscale, CMYK
    and palette pictures become RGB, transparent ones are laid on white, and the
    camera's orientation is applied.

    Args:
      data: the file's bytes.
      name: the file's name, for the error.
      size: side of the result, in pixels.

    Raises:
      InputError: if it can't be read as a picture, or is too large.
    """
    check_bytes(len(data), name)
    try:
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            _check_work(image, data)
            large = image.width * image.height > LARGE_PIXELS
            with _large if large else nullcontext():
                mended = [*_peculiarities(image, name)]
                upright = _orientation(image)
                pixels, damaged = _pixels(image, data)
                picture = _finished(pixels, upright, size)
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not a picture; mend or remove it") from error
    except Exception as error:
        # Broken bytes make Pillow raise nearly anything, struct.error among them.
        reason = first_line(error)
        raise InputError(
            f"{name} can't be read as a picture ({reason}); mend or remove it"
        ) from error
    if upright is not None:
        mended.append("orientation")
    if damaged:
        mended.append("damage that decoders forgive")
    return Decoded(picture, tuple(mended))


def prepared(image: Image.Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """An open picture as `decode` gives a file's."""
    return _finished(_to_rgb(image), _orientation(image), size)


def _finished(
    image: Image.Image, upright: Image.Transpose | None, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut, turn, and lay on white what is transparent: last, where it costs least."""
    image = square(image, size)
    if upright is not None:
        image = image.transpose(upright)
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return np.asarray(image)


def check_bytes(count: int, name: str) -> None:
    """Raise an InputError if a file is too large to be read as a picture."""
    if count > MAX_BYTES:
        raise InputError(
            f"{name} has {count} bytes, more than the {MAX_BYTES} of a picture"
        )


def _check_work(image: Image.Image, data: bytes) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"{image.width} x {image.height} pixels, over the limit of {MAX_PIXELS}"
        )
    # An upper bound: a thumbnail inside has its own.
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
    if scans * pixels > MAX_PIXELS_SCANNED:
        raise ValueError(f"{scans} scans over {image.width} x {image.height} pixels")


def _peculiarities(image: Image.Image, name: str) -> list[str]:
    """What is unlike an RGB picture of the format that the name's ending says."""
    found = []
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    suffix = Path(name).suffix.lower()
    if suffix in ENDINGS and suffix not in FORMATS[kind]:
        found.append(f"{kind} named {suffix}")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        found.append(image.mode)
    elif image.mode in ("P", "PA"):
        found.append("palette")
    elif image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16"):
        found.append("greyscale")
    if image.has_transparency_data:
        found.append("transparency")
    return found


def _orientation(image: Image.Image) -> Image.Transpose | None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        return turns.get(image.getexif().get(0x0112, 1))
    except Exception:
        # A camera's notes that can't be read are none; the picture may be whole.
        return None


def _pixels(image: Image.Image, data: bytes) -> tuple[Image.Image, bool]:
    """The pixels as RGB or RGBA, and whether the file is damaged a little."""
    damaged = False
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        try:
            return Image.fromarray(simplejpeg.decode_jpeg(data)), False
        except ValueError:
            # It refuses what other decoders read with a warning.
            damaged = True
    return _to_rgb(image), damaged


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as RGB, or as RGBA where parts of it are transparent.

    Raises:
      ValueError: on whole or real numbers without a known range.
    """
    if image.mode.startswith("I;16"):
        # Pillow would cut 16 bits off at 255 and not scale them.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre square, resized: as if the short side were, then the centre cut."""
    width, height = image.size
    if width == height == size:
        return image
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return image.resize((size, size), Image.Resampling.BICUBIC, box)


def encode_jpeg(picture: Picture) -> bytes:
    """JPEG without colour subsampling losses beyond the usual 4:2:0 of photographs."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture), quality=JPEG_QUALITY, colorsubsampling="420"
    )


def decode_jpeg(data: bytes | memoryview) -> Picture:
    """A JPEG that `encode_jpeg` made."""
    return simplejpeg.decode_jpeg(data)
