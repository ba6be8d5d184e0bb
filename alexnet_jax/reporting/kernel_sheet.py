"""The first layer's kernels in an image (figure 3 of the paper), and over a run."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from alexnet_jax.runtime import atomic, paths
from alexnet_jax.runtime.atomic import writing


# Kernels in a row; side of a kernel's value, in pixels.
COLUMNS, SCALE = 16, 4
# Of a heading, in pixels, and its colour.
HEADING, INK = 30, (18, 52, 84)
# What Pillow writes animations to, and how long a frame and the last one stay.
ANIMATIONS = {".gif": "GIF", ".png": "PNG", ".webp": "WebP"}
FRAME_MS, LAST_MS = 250, 2000

Kernels = Float[np.ndarray, "towers height width 3 channels"]
AXES = 5


def is_drawable(kernels: Float[np.ndarray, "..."]) -> bool:
    """Whether a layer's kernels are those of a convolution of three colours."""
    return kernels.ndim == AXES and kernels.shape[3] == 3


def kernel_sheet(kernels: Kernels) -> UInt8[np.ndarray, "rows columns 3"]:
    """The first layer's kernels tower by tower, as in figure 3 of the paper.

    Each kernel is stretched to the full range around middle grey, which means zero.
    A wider gap separates the towers.
    """
    return _sheet(_tiles(kernels, _largest(kernels)), 255)


def tower_sheets(kernels: Kernels) -> list[UInt8[np.ndarray, "rows columns 4"]]:
    """Each tower's kernels, as `kernel_sheet` has them, with transparent gaps."""
    tiles = _tiles(kernels, _largest(kernels))
    tiles = np.concatenate([tiles, np.full_like(tiles[..., :1], 255)], axis=-1)
    return [_sheet(tiles[tower : tower + 1], 0) for tower in range(len(tiles))]


def labelled_sheet(
    kernels: Kernels, title: str = "", largest: np.ndarray | None = None
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The towers' kernels below their names, on white.

    Args:
      title: stands above.
      largest: the value of each kernel that becomes the full range; its own if None.
    """
    tiles = _tiles(kernels, _largest(kernels) if largest is None else largest)
    sheets = [_sheet(tiles[tower : tower + 1], 255) for tower in range(len(tiles))]
    names = [f"tower {n}" for n in range(len(sheets))] if len(sheets) > 1 else []
    above = HEADING * bool(title)
    height, width = sheets[0].shape[:2]
    step = height + HEADING * bool(names)
    whole = Image.new("RGB", (width, above + step * len(sheets)), (255, 255, 255))
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(16)
    pen.text((SCALE, 7), title, INK, ImageFont.load_default(18))
    for tower, sheet in enumerate(sheets):
        top = above + tower * step
        if names:
            pen.text((SCALE, top + 7), names[tower], INK, font)
        whole.paste(Image.fromarray(sheet), (0, top + HEADING * bool(names)))
    return np.asarray(whole)


def write_animation(kernels_at: Mapping[int, Kernels], path: Path) -> None:
    """Draw the kernels at several steps as frames of an animation.

    Each kernel is stretched by its largest value over all steps, so that it is seen to
    grow. The ending of the name decides the format.
    """
    largest = np.max([_largest(kernels) for kernels in kernels_at.values()], axis=0)
    frames = [
        Image.fromarray(labelled_sheet(kernels, f"step {step:,}", largest))
        for step, kernels in sorted(kernels_at.items())
    ]
    if path.suffix == ".gif":
        # One palette for all frames, or colours would flicker.
        plain = Image.Dither.NONE
        palette = frames[-1].quantize(256, dither=plain)
        frames = [frame.quantize(palette=palette, dither=plain) for frame in frames]
    content = io.BytesIO()
    frames[0].save(
        content,
        ANIMATIONS[path.suffix],
        save_all=True,
        append_images=frames[1:],
        duration=[*[FRAME_MS] * (len(frames) - 1), LAST_MS],
        loop=0,
        **({"lossless": True} if path.suffix == ".webp" else {}),
    )
    with writing(path):
        atomic.replace(path, content.getvalue())


def check_animation(path: Path) -> None:
    """Raise an InputError for a file that no animation can be written to."""
    paths.check_output(path, tuple(ANIMATIONS), "--animation", new=False)


def _largest(kernels: Kernels) -> Float[np.ndarray, "towers 1 1 1 channels"]:
    return np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)


def _tiles(
    kernels: Kernels, largest: Float[np.ndarray, "towers 1 1 1 channels"]
) -> UInt8[np.ndarray, "towers channels rows columns 3"]:
    """Each kernel as an image."""
    grey = 0.5 + 0.5 * kernels / np.maximum(largest, np.finfo(np.float32).tiny)
    tiles = np.round(255 * grey).astype(np.uint8).transpose(0, 4, 1, 2, 3)
    return tiles.repeat(SCALE, axis=2).repeat(SCALE, axis=3)


def _sheet(
    tiles: UInt8[np.ndarray, "towers channels height width colours"], blank: int
) -> UInt8[np.ndarray, "rows columns colours"]:
    """Tiles in rows, the towers below each other, on a ground of one value."""
    towers, channels, height, width, colours = tiles.shape
    gap, rows = SCALE, -(-channels // COLUMNS)
    tile_height, tile_width = height + gap, width + gap
    tower_height = rows * tile_height + 3 * gap
    shape = (towers * tower_height - 2 * gap, COLUMNS * tile_width + gap, colours)
    sheet = np.full(shape, blank, np.uint8)
    for tower, channel in np.ndindex(towers, channels):
        row, column = divmod(channel, COLUMNS)
        top = tower * tower_height + row * tile_height + gap
        left = column * tile_width + gap
        sheet[top : top + height, left : left + width] = tiles[tower, channel]
    return sheet
