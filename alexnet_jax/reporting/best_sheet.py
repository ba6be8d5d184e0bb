"""A sheet of the best images of each unit, tower by tower; by Pillow alone."""

import io
import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from alexnet_jax.analysis.best_so_far import PATCH, BestImages
from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.atomic import writing


# Units in a row, and pixels: between patches, around units, of a heading.
COLUMNS, LINE, GAP, LABEL, HEADING = 16, 1, 10, 16, 40
INK, SOFT, PAPER, EMPTY = (18, 52, 84), (90, 104, 118), (255, 255, 255), (236, 239, 242)


def write(best: BestImages, path: Path) -> None:
    """Draw the sheet to a PNG file."""
    content = io.BytesIO()
    Image.fromarray(draw(best)).save(content, "PNG")
    with writing(path):
        atomic.replace(path, content.getvalue())


def draw(
    best: BestImages, across_page: int = COLUMNS
) -> UInt8[np.ndarray, "height width 3"]:
    """The units whose patches were kept, so many in a row, each a square of its best
    images, the strongest at the top left; towers below each other."""
    drawn, top = best.patches.shape[:2]
    across = math.ceil(math.sqrt(top))
    down = -(-top // across)
    step = PATCH + LINE
    cell = (down * step + LABEL + GAP, across * step + GAP)
    tower_of = best.units[:drawn] // (best.width // best.towers)
    groups = [
        (tower, np.flatnonzero(tower_of == tower)) for tower in np.unique(tower_of)
    ]
    columns = min(across_page, max(len(members) for _, members in groups))
    rows = [-(-len(members) // columns) for _, members in groups]
    width = max(GAP + columns * cell[1], 420)
    height = sum(HEADING + count * cell[0] for count in rows)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen, y = ImageDraw.Draw(sheet), 0
    large, small = (ImageFont.load_default(size) for size in (20, 12))
    for (tower, members), count in zip(groups, rows, strict=True):
        title = f"{best.layer}, tower {tower}" if best.towers > 1 else best.layer
        pen.text((GAP, y + 9), title, INK, large)
        y += HEADING
        for place, unit in enumerate(members):
            row, column = divmod(place, columns)
            corner = (GAP + column * cell[1], y + row * cell[0])
            _unit(sheet, pen, best, int(unit), corner, across, small)
        y += count * cell[0]
    return np.asarray(sheet)


def _unit(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    best: BestImages,
    unit: int,
    corner: tuple[int, int],
    across: int,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    left, top = corner
    values = best.values[unit]
    idle = not values[0] > 0
    label = f"{best.units[unit]}"
    note = "never above 0" if idle else f"{values[0]:.3g}"
    pen.text((left, top), label, INK, font)
    end = left + across * (PATCH + LINE) - LINE
    pen.text((end, top), note, SOFT, font, anchor="ra")
    for slot, value in enumerate(values):
        row, column = divmod(slot, across)
        x, y = left + column * (PATCH + LINE), top + LABEL + row * (PATCH + LINE)
        if idle or np.isnan(value):
            pen.rectangle((x, y, x + PATCH - 1, y + PATCH - 1), EMPTY)
        else:
            sheet.paste(Image.fromarray(best.patches[unit, slot]), (x, y))
