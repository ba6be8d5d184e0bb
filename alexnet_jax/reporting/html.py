"""A self-contained HTML page of sections, rendered by `report.html.jinja`.

Needs Jinja2 (the extra `figures`). Here is only what the template can't do: charts and
images as text, and the anchors of sections.
"""

import base64
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import ClassVar

import jinja2
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image


# Of images within drawings: twice those of a screen.
DOTS_PER_INCH = 200
# Of a drawing on the page.
PIXELS_PER_INCH = 110


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The numbers that matter most, as boxes of a name and a value."""

    pairs: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "numbers"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A vector drawing, and its description for readers who don't see it.

    `svg` is the element behind its opening `<svg`, where the template adds the
    description. It is not escaped. `narrow` takes its place in a narrow window, and
    `width`, in pixels, is the largest that it is shown at.
    """

    svg: str
    description: str
    width: int
    narrow: str = ""
    kind: ClassVar[str] = "drawing"


@dataclasses.dataclass(frozen=True)
class Pixels:
    """An image of pixels: its data address, and a description as in `Drawing`.

    A `caption` stands above it. `smooth` is for photographs, whose pixels are not to
    be seen one by one.
    """

    address: str
    description: str
    caption: str = ""
    smooth: bool = False
    kind: ClassVar[str] = "pixels"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text, whose last `numbers` columns hold numbers.

    With a `summary` the table is folded, and that is the line that opens it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 0
    summary: str = ""
    kind: ClassVar[str] = "table"


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, a text that says what it shows, and the parts below."""

    title: str
    parts: Sequence[Numbers | Drawing | Pixels | Table]
    text: str = ""

    @property
    def anchor(self) -> str:
        """The name that links within the page use."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def drawing(
    figure: Figure, name: str, description: str, *, ink: str, narrow: Figure | None
) -> Drawing:
    """A Matplotlib figure as vectors, and another one for a narrow window.

    No other drawing of the page may have its name. The colour `ink` becomes the page's
    text colour, in light and dark.
    """
    other = "" if narrow is None else _vectors(narrow, f"{name}-narrow", ink)
    width = round(PIXELS_PER_INCH * figure.get_figwidth())
    return Drawing(_vectors(figure, name, ink), description, width, other)


def _vectors(figure: Figure, name: str, ink: str) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, dpi=DOTS_PER_INCH)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") + len("<svg") :].replace(ink, "currentColor")
    # Matplotlib counts its names from the start in every figure; within a page each
    # must be there once, or a drawing would be clipped by another's frame.
    svg = svg.replace('id="', f'id="chart-{name}-')
    svg = svg.replace('href="#', f'href="#chart-{name}-')
    return svg.replace("url(#", f"url(#chart-{name}-")


def pixels(
    image: UInt8[np.ndarray, "height width channels"],
    description: str,
    *,
    caption: str = "",
    smooth: bool = False,
) -> Pixels:
    """An array as a PNG within the page; smooth ones as JPEG, which is smaller."""
    file = io.BytesIO()
    if smooth:
        Image.fromarray(image).save(file, "JPEG", quality=88)
    else:
        Image.fromarray(image).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    kind = "jpeg" if smooth else "png"
    return Pixels(f"data:image/{kind};base64,{data}", description, caption, smooth)


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page, with links to its sections at the top."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet_jax.reporting", "."),
        autoescape=True,
        # A misspelt name is an error, not an empty place.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("report.html.jinja")
    return template.render(title=title, subtitle=subtitle, sections=sections)
