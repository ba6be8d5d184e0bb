"""The first layer's kernels in an image (figure 3 of the paper)."""

import numpy as np
from jaxtyping import Float, UInt8


# Kernels in a row; side of a kernel's value, in pixels.
COLUMNS, SCALE = 16, 4


def kernel_sheet(
    kernels: Float[np.ndarray, "towers height width 3 channels"],
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The first layer's kernels tower by tower, as in figure 3 of the paper.

    Each kernel is stretched to the full range around middle grey, which means zero.
    A wider gap separates the towers.
    """
    towers, height, width, _, channels = kernels.shape
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    grey = 0.5 + 0.5 * kernels / np.maximum(largest, np.finfo(np.float32).tiny)
    tiles = np.round(255 * grey).astype(np.uint8).transpose(0, 4, 1, 2, 3)
    tiles = tiles.repeat(SCALE, axis=2).repeat(SCALE, axis=3)
    gap, rows = SCALE, -(-channels // COLUMNS)
    tile_height, tile_width = height * SCALE + gap, width * SCALE + gap
    tower_height = rows * tile_height + 3 * gap
    shape = (towers * tower_height - 2 * gap, COLUMNS * tile_width + gap, 3)
    sheet = np.full(shape, 255, np.uint8)
    for tower in range(towers):
        for channel in range(channels):
            row, column = divmod(channel, COLUMNS)
            top = tower * tower_height + row * tile_height + gap
            left = column * tile_width + gap
            tile = tiles[tower, channel]
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
