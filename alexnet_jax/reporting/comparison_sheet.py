"""The figure of `compare`: each layer's dissimilarities, and the layers' alignment.

Needs Matplotlib (the extra `figures`), which it imports.
"""

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.analysis.comparison_file import Comparison
from alexnet_jax.reporting import charts
from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.atomic import writing


DOTS_PER_INCH = 200
# Matrices in a row, and the side of one, in inches.
COLUMNS, SIDE = 4, 2.5
CELL = 0.55
MOST_NUMBERS = 16
# So that one distant image does not leave the others alike.
FARTHEST = 99.0


def write(found: Comparison, path: Path) -> None:
    """Draw a comparison to a PNG file."""
    content = io.BytesIO()
    with charts.styled(), matplotlib.rc_context({"axes.grid": False}):
        draw(found).savefig(content, dpi=DOTS_PER_INCH, facecolor="white")
    with writing(path):
        atomic.replace(path, content.getvalue())


def draw(found: Comparison) -> Figure:
    """The figure, in the style that is in force."""
    count = len(found.layers)
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    below = 1.6 + CELL * len(found.rows)
    width = max(columns * SIDE, 2.2 + CELL * len(found.columns), 5.0)
    height = 0.5 + rows * (SIDE + 0.2) + below
    figure = Figure(figsize=(width, height), layout="constrained")
    parts: Any = figure.subfigures(
        2, 1, height_ratios=(height - below, below), hspace=0.04
    )
    top, bottom = parts
    shown = len(found.sample)
    of = f"{shown:,} of {len(found.names):,}" if shown < len(found.names) else "all"
    top.suptitle(
        f"Dissimilarity of images, {found.distance} ({of} images, sorted by label)",
        fontsize=11,
    )
    grid = top.subplots(rows, columns, squeeze=False).ravel()
    for axes, name, values in zip(grid, found.layers, found.drawn, strict=False):
        _matrix(axes, name, values)
        _borders(axes, [found.labels[place] for place in found.sample])
    for axes in grid[count:]:
        axes.axis("off")
    _alignment(bottom.subplots(), found)
    return figure


def _matrix(axes: Axes, name: str, values: np.ndarray) -> None:
    known = values[np.isfinite(values)]
    most = float(np.percentile(known, FARTHEST)) if len(known) else 1.0
    shown = axes.imshow(
        values, cmap="viridis", vmin=0, vmax=most or 1.0, interpolation="nearest"
    )
    axes.set_title(name, fontsize=9)
    axes.set(xticks=[], yticks=[])
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(shown, ax=axes, shrink=0.75, pad=0.03, aspect=18)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _borders(axes: Axes, labels: list[int]) -> None:
    """Lines between classes, where they are few."""
    edges = np.flatnonzero(np.diff(labels)) + 0.5
    if len(edges) < 40:
        for edge in edges:
            axes.axhline(edge, color="white", lw=0.3, alpha=0.7)
            axes.axvline(edge, color="white", lw=0.3, alpha=0.7)


def _alignment(axes: Axes, found: Comparison) -> None:
    axes.imshow(found.cka, cmap="magma", vmin=0, vmax=1, aspect="equal")
    axes.set_title("Linear CKA, debiased", fontsize=11)
    axes.set_xticks(range(len(found.columns)), found.columns, rotation=45, ha="right")
    axes.set_yticks(range(len(found.rows)), found.rows)
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_visible(False)
    if len(found.columns) > MOST_NUMBERS:
        return
    for (row, column), value in np.ndenumerate(found.cka):
        text = "none" if np.isnan(value) else f"{value:.2f}"
        style = {"color": "#102030" if value > 0.6 else "white", "fontsize": 8}
        if np.isnan(value):
            style["color"] = "#102030"
        axes.text(column, row, text, ha="center", va="center", **style)
