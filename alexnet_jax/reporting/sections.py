"""The sections of the report: what each shows, and its charts as PNG files beside."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image

from alexnet_jax.inference.inspection import Insight
from alexnet_jax.reporting import charts, html
from alexnet_jax.reporting.html import Section, Table
from alexnet_jax.reporting.kernel_sheet import kernel_sheet
from alexnet_jax.runs import time_spent
from alexnet_jax.runs.metrics_file import CLASSES_WITHOUT_TOP5, Curves, Spike
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.progress import counting


# A matrix of more cells can't be read.
MOST_CLASSES_IN_A_MATRIX = 20
WORST_CLASSES = 50
MOST_SPIKES = 20
DOTS_PER_INCH = 110


def result(run: Curves, classes: int) -> Section:
    """The best errors of a run on so many classes, and how far the training went."""
    speed = np.median(run.splits["train"]["images_per_second"])
    pairs = [
        ("steps", f"{run.last('train', 'step'):.0f}"),
        ("epochs", f"{run.last('train', 'epoch'):.1f}"),
        ("training loss", f"{run.last('train', 'loss'):z.3f}"),
        ("images a second", f"{speed:.0f}"),
    ]
    best = run.best()
    if best is not None:
        top5 = ("top-5 error there", f"{best['top5_error']:.2%}")
        pairs[:0] = [
            ("best top-1 error", f"{best['top1_error']:.2%}"),
            *([top5] if classes > CLASSES_WITHOUT_TOP5 else []),
        ]
    return Section("Result", [html.Numbers(pairs)])


def evaluations(results: Sequence[Mapping[str, object]], classes: int) -> list[Section]:
    """A row for each result that `evaluate` kept, oldest first; none without any."""
    columns = ["split", "examples", "members", "views", "top1_error", "top5_error"]
    names = ["time", "checkpoints", *columns[:4], "top-1 error", "top-5 error"]
    if classes <= CLASSES_WITHOUT_TOP5:
        del columns[-1], names[-1]
    rows = []
    for result in results:
        about = result.get("environment")
        time = about.get("time", "") if isinstance(about, Mapping) else ""
        shown = [_shown(result.get(name, "")) for name in columns]
        checkpoints = result.get("checkpoints")
        which = checkpoints if isinstance(checkpoints, list) else ()
        rows.append((str(time), ", ".join(map(str, which)), *shown))
    table = Table(names, rows, numbers=len(columns) - 1)
    return [Section("Evaluations", [table])] if rows else []


def _shown(value: object) -> str:
    return f"{value:.2%}" if isinstance(value, float) else str(value)


def results(runs: Sequence[Curves]) -> Section:
    """A row for each of several runs."""
    rows = []
    for run in runs:
        best = run.best()
        rows.append(
            (
                run.name,
                f"{run.last('train', 'step'):.0f}",
                f"{run.last('train', 'loss'):z.3f}",
                "" if best is None else f"{best['top1_error']:.2%}",
                "" if best is None else f"{best['step']:.0f}",
            )
        )
    columns = ("run", "steps", "training loss", "best top-1 error", "at step")
    return Section("Results", [Table(columns, rows, numbers=4)])


def training(runs: Sequence[Curves], folder: Path, prefix: str = "") -> Section:
    """Loss, error and learning rate over epochs. The folder gets the PNG."""
    path = folder / f"{prefix}training.png"
    what = "Loss, top-1 error and learning rate over epochs"
    chart = _draw(charts.training(runs), path, what)
    text = "Dotted: training batches, with dropout and random crops."
    return Section("Training", [chart], text)


def speed(runs: Sequence[Curves], folder: Path, prefix: str = "") -> Section:
    """Images a second and the wait for data. The folder gets the PNG."""
    path = folder / f"{prefix}throughput.png"
    what = "Images a second and the wait for data"
    chart = _draw(charts.throughput(runs), path, what)
    return Section("Speed", [chart], "By the clock of the machine that trained.")


def time(starts: Sequence[Mapping[str, object]]) -> list[Section]:
    """Where the time of a run went, over all its starts; none where none noted it."""
    seconds = time_spent.total(starts)
    if not seconds:
        return []
    whole = sum(seconds.values()) or 1.0
    rows = [
        (kind, time_spent.shown(spent), f"{spent / whole:.0%}")
        for kind, spent in seconds.items()
    ]
    steps = [
        (f"a step, {name}", time_spent.shown(took))
        for name, took in time_spent.latest_percentiles(starts).items()
    ]
    shown = [Table(("what", "time", "share"), rows, numbers=2), html.Numbers(steps)]
    text = f"Of {counting(len(starts), 'start')}, by the clock of process 0."
    return [Section("Time", shown if steps else shown[:1], text)]


def spikes(found: Sequence[Spike]) -> list[Section]:
    """The steps whose loss was far above that of the steps before; none without any."""
    rows = [
        (str(spike.step), f"{spike.loss:.3g}", f"{spike.factor:.1f}")
        for spike in found[:MOST_SPIKES]
    ]
    table = Table(("step", "loss", "times the median before"), rows, numbers=3)
    more = (
        f" The first {MOST_SPIKES} of {len(found):,}." if len(found) > len(rows) else ""
    )
    text = f"Training losses far above those of the steps before.{more}"
    return [Section("Loss spikes", [table], text)] if rows else []


def kernels(first: Float[np.ndarray, "..."], folder: Path) -> list[Section]:
    """The first layer's kernels; none where they don't see three colours."""
    if first.shape[3] != 3:
        return []
    sheet = kernel_sheet(first)
    folder.mkdir(exist_ok=True)
    Image.fromarray(sheet).save(folder / "kernels.png")
    text = (
        "Tower by tower, each stretched to the full range around grey, which is zero "
        "(figure 3 of the paper)."
    )
    shown = html.pixels(sheet, "The kernels of the first layer")
    return [Section("Kernels of the first layer", [shown], text)]


def predictions(insight: Insight, folder: Path) -> list[Section]:
    """Examples with their best classes, and where the network is wrong."""
    seen = len(insight.labels)
    which = "all" if seen == insight.total else f"{seen} of {insight.total}"
    what = "Images, their best classes and neighbours"
    panel = _draw(charts.panel(insight), folder / "predictions.png", what)
    text = (
        f"Red: the right class. Beside it the nearest of {which} validation images by "
        "the Euclidean distance of the last hidden layer (figure 4 of the paper)."
    )
    sections = [Section("Predictions", [panel], text)]
    text = f"{which.capitalize()} validation images, one crop."
    if len(insight.class_names) <= MOST_CLASSES_IN_A_MATRIX:
        path = folder / "confusion.png"
        matrix = _draw(charts.confusion(insight), path, "Confusion matrix")
        sections.append(Section("Confusions", [matrix], text))
    sections.append(Section("Errors by class", [_errors_by_class(insight)], text))
    return sections


def _errors_by_class(insight: Insight) -> Table:
    """The classes with the largest errors first."""
    counts = insight.confusion()
    totals = counts.sum(axis=1)
    wrong = totals - counts.diagonal()
    present = np.flatnonzero(totals)
    worst_first = np.argsort(-(wrong[present] / totals[present]), kind="stable")
    rows = [
        (
            insight.class_names[label],
            str(totals[label]),
            str(wrong[label]),
            f"{wrong[label] / totals[label]:.0%}",
        )
        for label in present[worst_first][:WORST_CLASSES]
    ]
    return Table(("class", "images", "wrong", "error"), rows, numbers=3)


def settings(
    config: Mapping[str, object], starts: Sequence[Mapping[str, object]]
) -> Section:
    """Config, and the versions of every start, folded; all flat, by dotted key."""
    keys = [(key, str(value)) for key, value in sorted(config.items())]
    tables = [Table(("key", "value"), keys, summary="Every key of the config")]
    for number, start in enumerate(starts, start=1):
        rows = [(key, str(value)) for key, value in start.items()]
        summary = f"Start {number}: {start.get('time', '')}"
        tables.append(Table(("what", "value"), rows, summary=summary))
    return Section("Config and versions", tables)


def differences(
    runs: Sequence[Curves], configs: Sequence[Mapping[str, object]]
) -> Section:
    """The keys whose values differ between runs; configs are flat, by dotted key."""
    rows = []
    for key in sorted({key for config in configs for key in config}):
        values = [str(config.get(key)) for config in configs]
        if len(set(values)) > 1:
            rows.append((key, *values))
    return Section(
        "What differs",
        [Table(("key", *(run.name for run in runs)), rows)],
        "Keys of the configs that are not the same in all runs.",
    )


def _draw(figure: Figure, path: Path, description: str) -> html.Drawing:
    """A chart for the page, and as a PNG on white in the colours of a light page."""
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
    return html.drawing(figure, path.stem, description, ink=charts.INK)
