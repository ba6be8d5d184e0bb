"""A map of images: each drawn small, in a cell of its own, beside those alike."""

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw

from alexnet_jax.reporting.charts import COLOURS


# Side of an image, of the frame in its class's colour, and of the gap, in pixels.
THUMBNAIL, FRAME, GAP = 56, 3, 2
PAPER = (255, 255, 255)


def draw(
    images: UInt8[np.ndarray, "images crop crop 3"],
    cells: Int[np.ndarray, "images 2"],
    labels: np.ndarray,
) -> UInt8[np.ndarray, "side side 3"]:
    """Images in their columns and rows. Up to six classes have a colour each, around
    their images."""
    framed = labels.max() < len(COLOURS)
    frame = FRAME if framed else 0
    step = THUMBNAIL + 2 * frame + GAP
    width, height = (cells.max(axis=0) + 1) * step + GAP
    sheet = Image.new("RGB", (int(width), int(height)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for image, (column, row), label in zip(images, cells, labels, strict=True):
        left, top = GAP + int(column) * step, GAP + int(row) * step
        if framed:
            far = THUMBNAIL + 2 * frame - 1
            pen.rectangle((left, top, left + far, top + far), COLOURS[label])
        small = Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL))
        sheet.paste(small, (left + frame, top + frame))
    return np.asarray(sheet)
