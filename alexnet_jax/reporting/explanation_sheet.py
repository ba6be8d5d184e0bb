"""The figure of `explain`: an image, its classes, what speaks for one, and the maps.

Needs Matplotlib (the extra `figures`), which it imports.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.analysis.explaining import Explanation
from alexnet_jax.analysis.explanations import strength
from alexnet_jax.reporting import charts
from alexnet_jax.runs.workdir import FIGURES
from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.atomic import writing


DOTS_PER_INCH = 200
# In inches: four panels in a row; then a strip of maps for each convolution.
WIDTH, MARGIN, GAP = 11.0, 0.3, 0.3
PANEL = (WIDTH - 2 * MARGIN - 3 * GAP) / 4
TITLE, BELOW = 0.32, 0.36
TOP = 0.85
PANEL_ROW = TITLE + PANEL + BELOW
STRIP_TITLE = 0.48
# Maps of a convolution, over all towers, in this many rows.
MAPS, MAP_ROWS = 32, 2
# Of the values of a gradient; larger ones would leave the others dark.
BRIGHTEST = 99.5
BEST = 5
SMALL, TINY = 8, 5
# The largest value of a map that is zero throughout.
SMALLEST = 1e-30


def place_of(workdir: Path, image: Path, figure: Path | None) -> Path:
    """Where the figure goes: into the run's figures if no other place is given."""
    return figure or workdir / FIGURES / f"explain_{image.stem}.png"


def write(explanation: Explanation, path: Path) -> None:
    """Draw an explanation to a file, whose ending decides the format."""
    content = io.BytesIO()
    with charts.styled():
        # No grid over images.
        with matplotlib.rc_context({"axes.grid": False}):
            figure = draw(explanation)
        kind = path.suffix.removeprefix(".")
        figure.savefig(content, format=kind, dpi=DOTS_PER_INCH, facecolor="white")
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        atomic.replace(path, content.getvalue())


def draw(explanation: Explanation) -> Figure:
    """The figure, in the style that is in force."""
    page = _Page(2 * PANEL_ROW, explanation)
    name = explanation.class_names[explanation.label]
    given = explanation.probabilities[explanation.label]
    page.figure.text(
        MARGIN / WIDTH,
        page.up(0.32),
        f"What speaks for {charts.short(name, 40)}: {given:.1%}",
        fontsize=15,
        weight="bold",
        va="center",
    )
    page.figure.text(
        MARGIN / WIDTH,
        page.up(0.6),
        f"The class's probability, and the derivative of its logit. "
        f"{explanation.towers} {'tower' if explanation.towers == 1 else 'towers'}, "
        f"crop of {len(explanation.image)} pixels.",
        fontsize=9,
        va="center",
    )
    view = page.panel(0, 0, "the network's view")
    view.imshow(explanation.image, interpolation="nearest")
    _classes(page.panel(0, 1, f"{BEST} best classes"), explanation)
    patch = explanation.patch
    _occlusion(page.panel(0, 2, f"a square of {patch} pixels covered"), explanation)
    _grad_cam(page.panel(0, 3, f"Grad-CAM at {explanation.last}"), explanation)
    _saliency(page.panel(1, 0, "gradient"), explanation.gradient)
    _saliency(page.panel(1, 1, "SmoothGrad"), explanation.smooth_gradient)
    if explanation.guided_gradient is not None:
        axes = page.panel(1, 2, "guided backpropagation")
        _coloured(axes, explanation.guided_gradient)
    _legend(page.panel(1, 3, "how to read it"))
    for place, layer in enumerate(explanation.activations):
        _strip(page, place, layer)
    return page.figure


class _Page:
    """A figure measured in inches from its top left."""

    def __init__(self, panels: float, explanation: Explanation) -> None:
        self.explanation = explanation
        towers = explanation.towers
        self.columns = MAPS // MAP_ROWS // towers
        self.block = (WIDTH - 2 * MARGIN - (towers - 1) * GAP) / towers
        self.strip = STRIP_TITLE + MAP_ROWS * self.block / self.columns
        self.strips_top = TOP + panels
        self.height = self.strips_top + len(explanation.activations) * self.strip + 0.2
        self.figure = Figure(figsize=(WIDTH, self.height))

    def up(self, inches: float) -> float:
        """The place so far below the top, as Matplotlib counts it."""
        return 1 - inches / self.height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes without marks."""
        place = (left / WIDTH, self.up(top + height))
        axes = self.figure.add_axes(
            (*place, width / WIDTH, height / self.height), xticks=[], yticks=[]
        )
        axes.spines[:].set_visible(False)
        return axes

    def panel(self, row: int, column: int, title: str) -> Axes:
        """One of the square panels."""
        left = MARGIN + column * (PANEL + GAP)
        axes = self.axes(left, TOP + row * PANEL_ROW + TITLE, PANEL, PANEL)
        axes.set_title(title, fontsize=10, loc="left", pad=5)
        return axes


def _grey(axes: Axes, explanation: Explanation) -> None:
    """The image in light grey, to lay a map over it."""
    grey = explanation.image.mean(axis=-1)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    # Maps may reach over the border; the axes keep the image's.
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())


def _classes(axes: Axes, explanation: Explanation) -> None:
    """Bars of the likeliest classes, and of the one that is explained."""
    given = explanation.probabilities
    shown = [*np.argsort(-given, kind="stable")[:BEST]]
    if explanation.label not in shown:
        shown.append(explanation.label)
    axes.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5))
    for place, label in enumerate(shown):
        colour = "#c2374d" if label == explanation.label else charts.COLOURS[0]
        axes.barh(place, given[label], height=0.34, color=colour, alpha=0.85)
        above = {"va": "center", "fontsize": SMALL + 0.5}
        name = charts.short(explanation.class_names[label], 26)
        axes.text(0, place - 0.32, name, **above)
        axes.text(1, place - 0.32, f"{given[label]:.1%}", ha="right", **above)


def _occlusion(axes: Axes, explanation: Explanation) -> None:
    """The change of the probability, drawn at the middle of each square."""
    _grey(axes, explanation)
    change = explanation.occlusion - explanation.probabilities[explanation.label]
    middles = explanation.places + (explanation.patch - 1) / 2
    most = max(float(np.abs(change).max()), SMALLEST)
    mesh = axes.pcolormesh(
        middles,
        middles,
        change,
        shading="nearest",
        cmap="RdBu",
        vmin=-most,
        vmax=most,
        alpha=0.65,
        linewidth=0,
        rasterized=True,
    )
    shown = f"{100 * most:.0f}%" if most >= 0.1 else f"{100 * most:.2g}%"
    _scale(axes, mesh, {-most: f"-{shown}", 0: "0", most: f"+{shown}"})


def _grad_cam(axes: Axes, explanation: Explanation) -> None:
    """The map, each value over the pixels nearest to the middle of its field."""
    _grey(axes, explanation)
    if not explanation.grad_cam.any():
        style = {"transform": axes.transAxes, "fontsize": SMALL, "va": "top"}
        axes.text(0, -0.03, "zero everywhere: no map speaks for it", **style)
        return
    field, cam = explanation.fields[explanation.last], explanation.grad_cam
    first = field.start + (field.size - 1) / 2 - field.step / 2
    edges = (first, first + field.step * len(cam))
    most = float(cam.max())
    shown = axes.imshow(
        cam,
        extent=(*edges, edges[1], edges[0]),
        cmap="inferno",
        interpolation="bicubic",
        vmin=0,
        vmax=most,
        alpha=0.65,
    )
    _scale(axes, shown, {0: "0", most: f"{most:.2g}"})


def _scale(axes: Axes, mapped: object, marks: Mapping[float, str]) -> None:
    """A colour bar below a panel."""
    inset = axes.inset_axes((0, -0.065, 1, 0.035))
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    bar = figure.colorbar(
        mapped,  # type: ignore[arg-type]
        cax=inset,
        orientation="horizontal",
        ticks=list(marks),
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.solids.set_alpha(1)  # type: ignore[union-attr]
    bar.ax.tick_params(labelsize=SMALL - 1, length=0, pad=2)
    bar.ax.set_xticks(list(marks), list(marks.values()))
    for label, side in zip(
        (bar.ax.get_xticklabels()[0], bar.ax.get_xticklabels()[-1]),
        ("left", "right"),
        strict=True,
    ):
        label.set_horizontalalignment(side)


def _saliency(axes: Axes, gradients: np.ndarray) -> None:
    values = strength(gradients)
    most = max(float(np.percentile(values, BRIGHTEST)), SMALLEST)
    axes.imshow(values, cmap="magma", vmin=0, vmax=most)


def _coloured(axes: Axes, gradients: np.ndarray) -> None:
    """A gradient as colours around grey, which is zero."""
    most = np.percentile(np.abs(gradients), BRIGHTEST)
    scaled = gradients / max(float(most), SMALLEST)
    axes.imshow(np.clip(0.5 + 0.5 * scaled, 0, 1))


def _legend(axes: Axes) -> None:
    lines = (
        ("square covered", "red: the class loses probability there"),
        ("Grad-CAM", "maps, weighted by their mean gradient"),
        ("gradient", "largest of three colours, by pixel"),
        ("SmoothGrad", "its mean over noisy copies of the image"),
        ("guided backpropagation", "ReLU passes gradients above 0 alone"),
        ("below", "maps of the largest values, by number"),
    )
    axes.set(xlim=(0, 1), ylim=(len(lines), 0))
    for place, (word, text) in enumerate(lines):
        style = {"fontsize": SMALL - 0.5, "va": "center"}
        axes.text(0, place + 0.25, word, weight="bold", **style)
        axes.text(0, place + 0.62, text, **style)


def _strip(page: _Page, place: int, layer: str) -> None:
    """The maps of a convolution with the largest values, tower by tower."""
    explanation = page.explanation
    maps = explanation.activations[layer]
    towers = np.split(maps, explanation.towers, axis=-1)
    height, width = maps.shape[:2]
    top = page.strips_top + place * page.strip
    limits = (min(0.0, float(maps.min())), max(float(maps.max()), SMALLEST))
    for tower, own in enumerate(towers):
        left = MARGIN + tower * (page.block + GAP)
        body = page.block / page.columns * MAP_ROWS
        axes = page.axes(left, top + STRIP_TITLE - 0.06, page.block, body)
        title = f"{layer}, tower {tower}" if len(towers) > 1 else layer
        about = f"{own.shape[-1]} maps of {height} x {width}"
        axes.set_title(f"{title}   ", fontsize=10, loc="left", pad=4)
        axes.set_title(about, fontsize=SMALL, loc="right", pad=4)
        count = page.columns * MAP_ROWS
        chosen = np.argsort(-own.max(axis=(0, 1)), kind="stable")[:count]
        _tiles(axes, own, chosen, page.columns, limits)


def _tiles(
    axes: Axes,
    maps: Float[np.ndarray, "height width channels"],
    chosen: np.ndarray,
    columns: int,
    limits: tuple[float, float],
) -> None:
    # A tile is 1 wide and its border 0.04.
    axes.set(xlim=(0, columns), ylim=(MAP_ROWS, 0))
    style = {"fontsize": TINY, "va": "top", "color": "white"}
    for number, channel in enumerate(chosen):
        row, column = divmod(number, columns)
        axes.imshow(
            maps[..., channel],
            extent=(column, column + 0.96, row + 0.96, row),
            cmap="magma",
            vmin=limits[0],
            vmax=limits[1],
            aspect="auto",
            interpolation="nearest",
        )
        axes.text(column + 0.03, row + 0.03, str(channel), **style)
    axes.set(xlim=(0, columns), ylim=(MAP_ROWS, 0))
