"""A map of images: each drawn small, where a network finds its neighbours alike."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from alexnet_jax.reporting.charts import COLOURS


# Side of the map and of an image in it, and of the frame in its class's colour.
SIDE, THUMBNAIL, FRAME = 2000, 52, 3
PAPER = (255, 255, 255)


def draw(
    images: UInt8[np.ndarray, "images crop crop 3"],
    places: Float[np.ndarray, "images 2"],
    labels: np.ndarray,
) -> UInt8[np.ndarray, "side side 3"]:
    """Images at their places in the unit square. Up to six classes have a colour each,
    around their images."""
    sheet = Image.new("RGB", (SIDE, SIDE), PAPER)
    pen = ImageDraw.Draw(sheet)
    room = SIDE - THUMBNAIL - 2 * FRAME
    for image, (x, y), label in zip(images, places, labels, strict=True):
        left, top = FRAME + round(x * room), FRAME + round(y * room)
        if labels.max() < len(COLOURS):
            far = THUMBNAIL + FRAME - 1
            box = (left - FRAME, top - FRAME, left + far, top + far)
            pen.rectangle(box, COLOURS[label])
        small = Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL))
        sheet.paste(small, (left, top))
    return np.asarray(sheet)
