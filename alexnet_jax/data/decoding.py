"""Image bytes to arrays and back: decode, resize, crop, encode.

Files come from strangers. What decoding would cost is read from the header first, and
a file that costs too much is refused. What a run does with a file that can't be decoded
is decided in `runs/unreadable_images.py`.
"""

import io
import os
import re
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from alexnet_jax.runtime.errors import UnreadableImage, first_line
from alexnet_jax.runtime.optional import require


# Raised where the same bytes become other pixels: what is half prepared starts over.
REVISION = 1
FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),
    "PNG": (".png",),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "JPEG2000": (".j2k", ".jp2"),
    # Read where the package pillow-heif is installed.
    "HEIF": (".heic", ".heif", ".hif"),
}
ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)
# How files of these formats begin.
SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|II[*+]\0|MM\0[*+]|RIFF....WEBP"
    rb"|BM.{12}[\x0c-\x7c]\0{3}|P[1-6]\s+[#\d]|\0\0\0\x0cjP  |\xff\x4f\xff\x51"
    rb"|....ftyp(?:avi[fs]|mif1|msf1|he[iv][cmsx])",
    re.DOTALL,
)
# AVIF files may have these as well, but then name their own brand after it.
_HEIF = re.compile(rb"....ftyp(?:mif1|msf1|he[iv][cmsx])(?!.{0,64}avi[fs])", re.DOTALL)
# How files begin that Git LFS and git-annex leave in an image's place.
POINTERS = (b"version https://git-lfs", b"/annex/objects/")
# By the EXIF orientation; 1 is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
RESIZE_FILTER = "bicubic"
# How an image becomes a square, and the same in words.
RESIZES = {
    "square": "the centre square resized (Pillow's bicubic with antialiasing)",
    "torchvision": "as torchvision does it: the short side resized (Pillow's bilinear "
    "with antialiasing), the long side rounded down, the centre cut out",
    "squash": "as Caffe does it: the whole image squeezed to a square (Pillow's "
    "Lanczos with antialiasing)",
}
JPEG_QUALITY = 95

MAX_BYTES = 2**28
MAX_PIXELS = 2**26
# Every scan of a progressive JPEG goes over all of its pixels.
MAX_PIXELS_SCANNED = 2**31
# Larger images are decoded one at a time, so that many threads stay within memory.
LARGE_PIXELS = 2**24
_large = threading.Lock()

Pixels = UInt8[np.ndarray, "height width 3"]


class Decoded(NamedTuple):
    """A decoded image, and what was repaired or converted in its file, in words."""

    image: UInt8[np.ndarray, "size size 3"]
    repaired: tuple[str, ...]


def decode(data: bytes, name: str, *, size: int, resize: str = "square") -> Decoded:
    """An image file of any format, as the paper prepares it (section 2).

    The short side becomes `size` pixels, then the centre square is cut out; `resize` is
    another of `RESIZES` for networks that were trained with it. Greyscale, CMYK and
    palette images become RGB, transparent images are laid on white, and the camera's
    orientation is applied.

    Raises:
      UnreadableImage: if it can't be read as an image, or is too large; it names the
        file.
    """
    check_bytes(len(data), name)
    try:
        with Image.open(io.BytesIO(data), formats=_formats(data)) as opened:
            _check_work(opened, data)
            large = opened.width * opened.height > LARGE_PIXELS
            with _large if large else nullcontext():
                repaired = [*_peculiarities(opened, name)]
                turned = _orientation(opened) is not None
                pixels, damaged = _pixels(opened, data)
                # Pillow turns a TIFF while it reads the pixels, and removes the tag.
                upright = _orientation(opened)
                image = _finished(pixels, upright, size, resize)
    except UnidentifiedImageError as error:
        what = "is not an image; fix it or move it away"
        if data.startswith(POINTERS):
            what = "stands for an image; fetch that (`git lfs pull`, `git annex get`)"
        raise UnreadableImage(f"{name} {what}") from error
    except Exception as error:
        # Broken bytes make Pillow raise nearly anything, struct.error among them.
        reason = first_line(error)
        raise UnreadableImage(
            f"{name} can't be read as an image ({reason}); fix it or move it away"
        ) from error
    if turned or upright is not None:
        repaired.append("orientation")
    if damaged:
        repaired.append("damage that decoders forgive")
    return Decoded(image, tuple(repaired))


def prepared(
    opened: Image.Image, size: int, resize: str = "square"
) -> UInt8[np.ndarray, "size size 3"]:
    """An open Pillow image, as `decode` prepares that of a file."""
    return _finished(_to_rgb(opened), _orientation(opened), size, resize)


def _finished(
    opened: Image.Image, upright: Image.Transpose | None, size: int, resize: str
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut; then turn and lay on white, where there are fewest pixels."""
    opened = _CUTS[resize](opened, size)
    if upright is not None:
        opened = opened.transpose(upright)
    if opened.mode == "RGBA":
        white = Image.new("RGBA", opened.size, "white")
        opened = Image.alpha_composite(white, opened).convert("RGB")
    return np.asarray(opened)


def check_bytes(count: int, name: str) -> None:
    """Raise an UnreadableImage if a file is too large to be read as an image."""
    if count > MAX_BYTES:
        raise UnreadableImage(
            f"{name} has {count} bytes, more than the {MAX_BYTES} of an image"
        )


def has_ending(name: str) -> bool:
    """Whether a file is named as an image of a format that is read here."""
    return os.path.splitext(name)[1].lower() in ENDINGS


def is_image(head: bytes) -> bool:
    """Whether a file that begins so is an image of a format that is read here."""
    return SIGNATURES.match(head) is not None


def _formats(data: bytes) -> tuple[str, ...]:
    """The formats that the file may have."""
    if _HEIF.match(data) is None:
        return tuple(kind for kind in FORMATS if kind != "HEIF")
    require("pillow_heif", "HEIC").register_heif_opener()
    return ("HEIF",)


def _check_work(opened: Image.Image, data: bytes) -> None:
    pixels = opened.width * opened.height
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"{opened.width} x {opened.height} pixels, over the limit of {MAX_PIXELS}"
        )
    # An upper bound: a thumbnail inside has its own.
    scans = data.count(b"\xff\xda") if opened.format in ("JPEG", "MPO") else 1
    if scans * pixels > MAX_PIXELS_SCANNED:
        raise ValueError(f"{scans} scans over {opened.width} x {opened.height} pixels")


def _peculiarities(opened: Image.Image, name: str) -> list[str]:
    """How the file differs from an RGB image in the format of its name's ending."""
    found = []
    kind = "JPEG" if opened.format == "MPO" else str(opened.format)
    suffix = Path(name).suffix.lower()
    if suffix in ENDINGS and suffix not in FORMATS[kind]:
        found.append(f"{kind} named {suffix}")
    if opened.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        found.append(opened.mode)
    elif opened.mode in ("P", "PA"):
        found.append("palette")
    elif opened.mode in ("1", "I", "L", "LA", "La") or opened.mode.startswith("I;16"):
        found.append("greyscale")
    if opened.has_transparency_data:
        found.append("transparency")
    return found


def _orientation(opened: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Unreadable EXIF data counts as none: the image itself may be whole.
        return None


def _pixels(opened: Image.Image, data: bytes) -> tuple[Image.Image, bool]:
    """The pixels as RGB or RGBA, and whether the file is slightly damaged."""
    if opened.format not in ("JPEG", "MPO") or opened.mode not in ("RGB", "L"):
        return _to_rgb(opened), False
    try:
        return Image.fromarray(simplejpeg.decode_jpeg(data)), False
    except ValueError:
        # simplejpeg refuses files that Pillow reads with a warning.
        return _to_rgb(opened), True


def _to_rgb(opened: Image.Image) -> Image.Image:
    """An image of any mode as RGB, or as RGBA where it has transparency."""
    if opened.mode.startswith("I;16") or (opened.mode, opened.format) == ("I", "PPM"):
        # Pillow would clip 16-bit values at 255 instead of scaling them.
        opened = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
    elif opened.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {opened.mode} have no known range")
    return opened.convert("RGBA" if opened.has_transparency_data else "RGB")


def square(opened: Image.Image, size: int) -> Image.Image:
    """The centre square of `size` pixels a side, as if the short side were resized and
    the centre then cut out, in a single pass."""
    width, height = opened.size
    if width == height == size:
        return opened
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return opened.resize((size, size), Image.Resampling.BICUBIC, box)


def short_side(opened: Image.Image, size: int) -> Image.Image:
    """The centre square of `size` pixels a side, cut from the image whose short side
    was resized to that, as torchvision's `Resize` and `CenterCrop` do."""
    short = min(opened.size)
    # Rounded down, as there; in whole numbers, which a quotient of floats may miss.
    width, height = (size * side // short for side in opened.size)
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{opened.width} x {opened.height} pixels, too long to be resized"
        )
    if opened.size != (width, height):
        opened = opened.resize((width, height), Image.Resampling.BILINEAR)
    # Python's rounding of halves, as there.
    left, top = round((width - size) / 2), round((height - size) / 2)
    return opened.crop((left, top, left + size, top + size))


def squash(opened: Image.Image, size: int) -> Image.Image:
    """The whole image, of `size` pixels a side whatever its shape was. Caffe's guide
    has ImageMagick do so, whose filter this is."""
    return opened.resize((size, size), Image.Resampling.LANCZOS)


# By the names of `RESIZES`.
_CUTS = {"square": square, "torchvision": short_side, "squash": squash}


def encode_jpeg(image: Pixels) -> bytes:
    """JPEG of quality 95, with the 4:2:0 colour subsampling usual for photographs."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=JPEG_QUALITY, colorsubsampling="420"
    )


def decode_jpeg(data: bytes | memoryview) -> Pixels:
    """The pixels of a JPEG that `encode_jpeg` made."""
    return simplejpeg.decode_jpeg(data)
