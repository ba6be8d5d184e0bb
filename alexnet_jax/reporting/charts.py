"""Charts of runs and of a network's predictions, by Matplotlib (an extra)."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
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
PANEL_WIDTH = NEAR + NEIGHBOURS * (SIDE + GAP)
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


def training(runs: Sequence[Curves]) -> Figure:
    """Loss, top-1 error and learning rate over epochs, for one run or several."""
    figure = Figure(figsize=(7.5, 7.5), layout="constrained")
    loss, error, rate = figure.subplots(3, 1, sharex=True)
    for number, run in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        for axes, name in ((loss, "loss"), (error, "top1_error")):
            for split, style in (("train", ":"), ("validation", "-")):
                lines = run.splits[split]
                if lines:
                    x, y = thinned(lines["epoch"], lines[name])
                    marker = "o" if split == "validation" and len(x) < 30 else None
                    label = f"{prefix}{split}"
                    axes.plot(
                        x, y, style, color=colour, label=label, marker=marker, ms=3
                    )
        lines = run.splits["train"]
        rate.plot(*thinned(lines["epoch"], lines["learning_rate"]), color=colour)
        for epoch in run.rate_drops() if len(runs) == 1 else ():
            for axes in (loss, error):
                axes.axvline(epoch, color=INK, alpha=0.4, lw=0.8, ls="--")
    drops = " (dashed: the rate drops)" if len(runs) == 1 else ""
    loss.set(ylabel="loss")
    _logarithmic(loss)
    error.set(ylabel="top-1 error", ylim=(0, None))
    error.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    rate.set(ylabel="learning rate", xlabel=f"epoch{drops}")
    _logarithmic(rate)
    loss.legend()
    return figure


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


def throughput(runs: Sequence[Curves]) -> Figure:
    """Images a second, and the fraction of the time spent waiting for data."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    rate, wait = figure.subplots(2, 1, sharex=True)
    for number, run in enumerate(runs):
        lines, colour = run.splits["train"], COLOURS[number % len(COLOURS)]
        for axes, name in ((rate, "images_per_second"), (wait, "input_wait_fraction")):
            x, y = thinned(lines["epoch"], lines[name])
            axes.plot(x, y, color=colour, label=run.name)
    rate.set(ylabel="images a second", ylim=(0, None))
    wait.set(ylabel="waiting for data", ylim=(0, None), xlabel="epoch")
    wait.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    if len(runs) > 1:
        rate.legend()
    return figure


def confusion(insight: Insight) -> Figure:
    """How often examples of a class (row) were classified as each class (column)."""
    counts = insight.confusion()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [short(name) for name in insight.class_names]
    side = 2.2 + 0.42 * len(names)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    axes.grid(False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            light = share[row, column] > 0.5
            style = {"color": "white" if light else "#102030", "fontsize": 8}
            count = str(counts[row, column])
            axes.text(column, row, count, ha="center", va="center", **style)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted class", ylabel="class")
    return figure


def panel(insight: Insight) -> Figure:
    """Images with their five best classes and nearest neighbours (figure 4)."""
    chosen = _for_panel(insight)
    height = PANEL_TOP + ROW_HEIGHT * len(chosen)
    figure = Figure(figsize=(PANEL_WIDTH, height))
    # One pair of axes in inches holds it all: a pair for each image takes seconds.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, PANEL_WIDTH), ylim=(height, 0))
    axes.axis("off")
    few = len(insight.class_names) <= 5
    title = "classes" if few else "five best classes"
    axes.text(BARS[0], 0.25, title, fontsize=9)
    axes.text(NEAR, 0.25, "nearest by the last hidden layer", fontsize=9)
    for row, example in enumerate(chosen):
        top = PANEL_TOP + row * ROW_HEIGHT
        _image(axes, insight, example, LEFT, top)
        _bars(axes, insight, example, top)
        for column, near in enumerate(insight.nearest(example, NEIGHBOURS)):
            _image(axes, insight, int(near), NEAR + column * (SIDE + GAP), top)
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
