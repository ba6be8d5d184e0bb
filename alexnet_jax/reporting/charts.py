"""Charts of runs and of a network's predictions, by Matplotlib (an extra)."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import matplotlib.colors
import matplotlib.font_manager
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.inference.inspection import Insight
from alexnet_jax.runs.metrics_file import Curves, thinned
from alexnet_jax.runtime import progress


# A placeholder for the page's text colour, which follows its light or dark mode.
INK = "#123454"
# Distinct in light and dark mode, and with most kinds of colour blindness.
COLOURS = ("#3b82c4", "#d9822b", "#3a9a5b", "#b5508f", "#8a7a1f", "#7a6fd0")
PANEL_IMAGES = 8
NEIGHBOURS = 6
# The panel of predictions, in inches: images, the bars beside them, the neighbours.
SIDE, GAP, LEFT, PANEL_TOP, ROW_HEIGHT = 0.9, 0.08, 0.1, 0.35, 1.15
BARS = (LEFT + SIDE + 0.15, 2.0)
NEAR = sum(BARS) + 0.15
# Untyped, because Matplotlib types its keys one by one.
STYLE: Any = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "grid.color": INK,
    "font.size": 10,
    "legend.frameon": False,
    # A $ in the name of a class begins no formula.
    "text.parse_math": False,
    # Text stays text, which readers can search and screen readers can read.
    "svg.fonttype": "none",
    # The same run gives the same page.
    "svg.hashsalt": "alexnet_jax",
}


# For names in scripts that Matplotlib's own font lacks, where they are installed.
FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC"),
    *("Hiragino Sans", "Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS"),
    *("Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji"),
)


@contextmanager
def styled() -> Iterator[None]:
    """Inside the block charts are made and saved in the style of the report."""
    installed = set(matplotlib.font_manager.get_font_names())
    family = ["DejaVu Sans", *(font for font in FONTS if font in installed)]
    with warnings.catch_warnings(record=True) as seen:
        warnings.filterwarnings("always", "Glyph .* missing")
        with matplotlib.rc_context({**STYLE, "font.family": family}):
            yield
    missing = [w for w in seen if "missing from" in str(w.message)]
    if missing:
        progress.say(
            "note: no font here has all characters of the names; the PNG files show "
            "boxes, and the page what the browser's fonts have"
        )
    for other in seen:
        if other not in missing:
            warnings.warn_explicit(
                other.message, other.category, other.filename, other.lineno
            )


def training(
    runs: Sequence[Curves], chance: float | None = None, narrow: bool = False
) -> Figure:
    """Loss, top-1 error and learning rate over epochs, for one run or several.

    The batches of training vary much: behind each smoothed curve they are pale. With
    `chance` a line marks that error; `narrow` is for a telephone.
    """
    varies = any((np.diff(_rates(run)) != 0).any() for run in runs)
    panels = 3 if varies else 2
    size = (3.7, 2.3 * panels) if narrow else (7.5, 2.5 * panels)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True)
    loss, error = axes[:2]
    for number, run in enumerate(runs):
        for panel, name in ((loss, "loss"), (error, "top1_error")):
            _curves(panel, run, name, None if len(runs) == 1 else number)
        if varies:
            colour = COLOURS[number % len(COLOURS) if len(runs) > 1 else 2]
            x, y = thinned(run.splits["train"]["epoch"], _rates(run))
            axes[2].plot(x, y, color=colour)
        for epoch in run.rate_drops() if len(runs) == 1 else ():
            for panel in (loss, error):
                panel.axvline(epoch, color=INK, alpha=0.4, lw=0.8, ls="--")
    if chance is not None:
        error.axhline(chance, color=INK, alpha=0.6, lw=0.8, ls=":")
        place = error.get_yaxis_transform()
        style = {"ha": "right", "va": "top", "fontsize": 8, "transform": place}
        error.text(1, chance, "chance level", **style)
    loss.set(ylabel="loss")
    _logarithmic(loss)
    error.set(ylabel="top-1 error", ylim=(0, None))
    error.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes[-1].set(xlabel="epoch")
    if varies:
        axes[2].set(ylabel="learning rate")
        _logarithmic(axes[2])
    loss.legend(fontsize=8 if narrow else 9)
    return figure


def _rates(run: Curves) -> np.ndarray:
    return run.splits["train"]["learning_rate"]


def _curves(axes: Axes, run: Curves, name: str, number: int | None) -> None:
    """A number of the training batches and of the validations; of a single run
    (`number` is None) each in a colour of its own."""
    prefix = "" if number is None else f"{run.name}: "
    own = 0 if number is None else number % len(COLOURS)
    lines = run.splits["train"]
    if lines:
        colour = COLOURS[1] if number is None else COLOURS[own]
        x, y = thinned(lines["epoch"], lines[name])
        axes.plot(x, y, color=colour, alpha=0.25, lw=0.8)
        style = {"color": colour, "lw": 1.4, "ls": "-" if number is None else ":"}
        axes.plot(x, smoothed(y), label=f"{prefix}training batches", **style)
    lines = run.splits["validation"]
    if lines:
        x, y = thinned(lines["epoch"], lines[name])
        marker = "o" if len(x) < 30 else None
        style = {"color": COLOURS[own], "marker": marker, "ms": 3}
        axes.plot(x, y, label=f"{prefix}validation", **style)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Means over a window of a twentieth of the values, shorter at the ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first = np.maximum(places - half, 0)
    stop = np.minimum(places + half + 1, len(values))
    return (sums[stop] - sums[first]) / (stop - first)


def _logarithmic(axes: Axes) -> None:
    values = [np.asarray(line.get_ydata()) for line in axes.get_lines()]
    if not any((v > 0).any() for v in values):
        # A rate of zero all along, say: a logarithmic axis has no place for it.
        return
    axes.set_yscale("log")
    plain = matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_locator(matplotlib.ticker.LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter(plain)


def throughput(runs: Sequence[Curves], narrow: bool = False) -> Figure:
    """Images a second, and the fraction of the time spent waiting for data if any
    was."""
    shown = [("images_per_second", "images a second")]
    waits = [run.splits["train"]["input_wait_fraction"] for run in runs]
    if any((wait > 0).any() for wait in waits):
        shown.append(("input_wait_fraction", "waiting for data"))
    size = (3.7, 1.9 * len(shown)) if narrow else (7.5, 2.1 * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    panels = np.ravel(figure.subplots(len(shown), 1, sharex=True))
    for axes, (name, label) in zip(panels, shown, strict=True):
        for number, run in enumerate(runs):
            lines, colour = run.splits["train"], COLOURS[number % len(COLOURS)]
            x, y = thinned(lines["epoch"], lines[name])
            axes.plot(x, y, color=colour, label=run.name)
        axes.set(ylabel=label, ylim=(0, None))
    panels[-1].set(xlabel="epoch")
    if len(shown) > 1:
        fraction = matplotlib.ticker.PercentFormatter(1.0)
        panels[1].yaxis.set_major_formatter(fraction)
    if len(runs) > 1:
        panels[0].legend()
    return figure


def confusion(insight: Insight, narrow: bool = False) -> Figure:
    """How often examples of a class (row) were classified as each class (column)."""
    counts = insight.confusion()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [short(name, 12 if narrow else 18) for name in insight.class_names]
    side = 1.0 + 0.265 * len(names) if narrow else 2.2 + 0.42 * len(names)
    figure = Figure(figsize=(side + 0.2, side), layout="constrained")
    axes = figure.subplots()
    axes.grid(False)
    # A colour whose strength is its opacity: what is behind it may be light or dark.
    cells = np.empty((*counts.shape, 4))
    cells[..., :3] = matplotlib.colors.to_rgb(COLOURS[0])
    cells[..., 3] = 0.9 * share
    axes.imshow(cells, interpolation="nearest")
    size = 6 if narrow else 8
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            style = {"ha": "center", "va": "center", "fontsize": size}
            axes.text(column, row, str(counts[row, column]), **style)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(labelsize=7 if narrow else 10)
    axes.set(xlabel="predicted class", ylabel="class")
    return figure


def panel(insight: Insight, narrow: bool = False) -> Figure:
    """Images with their five best classes and nearest neighbours (figure 4)."""
    chosen = _for_panel(insight)
    near = min(1 if narrow else NEIGHBOURS, len(insight.images) - 1)
    width = NEAR + max(near, 1) * (SIDE + GAP)
    height = PANEL_TOP + ROW_HEIGHT * len(chosen)
    figure = Figure(figsize=(width, height))
    # One pair of axes in inches holds it all: a pair for each image takes seconds.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    few = len(insight.class_names) <= 5
    title = "classes" if few else "five best classes"
    axes.text(BARS[0], 0.25, title, fontsize=9)
    if near:
        text = "nearest" if narrow else "nearest by the last hidden layer"
        axes.text(NEAR, 0.25, text, fontsize=9)
    for row, example in enumerate(chosen):
        top = PANEL_TOP + row * ROW_HEIGHT
        _image(axes, insight, example, LEFT, top)
        _bars(axes, insight, example, top)
        for column, other in enumerate(insight.nearest(example, near)):
            _image(axes, insight, int(other), NEAR + column * (SIDE + GAP), top)
    return figure


def _for_panel(insight: Insight) -> list[int]:
    """Examples, half of them wrong where possible, evenly over the split."""
    wrong = np.flatnonzero(insight.predicted != insight.labels)
    right = np.flatnonzero(insight.predicted == insight.labels)
    half = min(len(wrong), PANEL_IMAGES // 2)
    chosen = [*_spread(right, PANEL_IMAGES - half), *_spread(wrong, half)]
    return chosen or [0]


def _spread(places: np.ndarray, count: int) -> list[int]:
    picked = np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)
    return places[picked].tolist()


def _image(axes: Axes, insight: Insight, example: int, left: float, top: float) -> None:
    place = (left, left + SIDE, top + SIDE, top)
    # The axes keep their limits, in inches.
    axes.imshow(insight.images[example], extent=place, aspect="auto")
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    name = short(insight.class_names[insight.labels[example]])
    below = {"ha": "center", "va": "top", "fontsize": 7}
    axes.text(left + SIDE / 2, top + SIDE + 0.04, name, **below)


def _bars(axes: Axes, insight: Insight, example: int, top: float) -> None:
    given = insight.probabilities[example]
    best = np.argsort(-given, kind="stable")[:5]
    truth = insight.labels[example]
    colours = ["#c2374d" if label == truth else COLOURS[0] for label in best]
    left, width = BARS
    step = SIDE / 5
    middles = top + step * (np.arange(len(best)) + 0.5)
    bars = {"left": left, "height": 0.8 * step, "color": colours, "alpha": 0.7}
    axes.barh(middles, width * given[best], **bars)
    for middle, label in zip(middles, best, strict=True):
        name = short(insight.class_names[label])
        axes.text(left + 0.04, middle, name, va="center", fontsize=8)


def short(name: str, length: int = 18) -> str:
    """A name, cut after so many characters."""
    return name if len(name) <= length else f"{name[: length - 1]}…"
