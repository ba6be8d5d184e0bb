"""The first layer's kernels as one image (figure 3 of the paper)."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


def kernel_sheet(
    kernels: Float[np.ndarray, "towers height width 3 channels"],
    *,
    columns: int = 16,
    scale: int = 4,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The first layer's kernels tower by tower, as in figure 3 of the paper.

    Each kernel is stretched to the full range around middle grey, which means zero.
    A wider gap separates the towers.

    Args:
      kernels: of the first convolution.
      columns: kernels in a row.
      scale: side of a kernel's value, in pixels.

    Returns:
      RGB pixels on white.
    """
    towers, height, width, _, channels = kernels.shape
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    grey = 0.5 + 0.5 * kernels / np.maximum(largest, np.finfo(np.float32).tiny)
    tiles = np.round(255 * grey).astype(np.uint8).transpose(0, 4, 1, 2, 3)
    tiles = tiles.repeat(scale, axis=2).repeat(scale, axis=3)
    gap, rows = scale, -(-channels // columns)
    tile_height, tile_width = height * scale + gap, width * scale + gap
    tower_height = rows * tile_height + 3 * gap
    shape = (towers * tower_height - 2 * gap, columns * tile_width + gap, 3)
    sheet = np.full(shape, 255, np.uint8)
    for tower in range(towers):
        for channel in range(channels):
            row, column = divmod(channel, columns)
            top = tower * tower_height + row * tile_height + gap
            left = column * tile_width + gap
            tile = tiles[tower, channel]
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def save_kernels(kernels: Float[np.ndarray, "..."], path: Path) -> None:
    """Write `kernel_sheet` as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(kernel_sheet(kernels)).save(path)
