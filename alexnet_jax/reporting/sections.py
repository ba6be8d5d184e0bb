"""The sections of the report: what each shows, and its charts as PNG files beside."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image

from alexnet_jax.inference.inspection import Insight
from alexnet_jax.reporting import charts, html, kernel_sheet
from alexnet_jax.reporting.html import Section, Table
from alexnet_jax.runs.metrics_file import CLASSES_WITHOUT_TOP5, Curves
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.progress import counting


# A matrix of more cells can't be read.
MOST_CLASSES_IN_A_MATRIX = 20
# A table of more rows is folded.
OPEN_ROWS = 50
RATE = "learning_rate"
# Twice a screen's.
DOTS_PER_INCH = 200


def result(
    run: Curves,
    classes: int,
    *,
    insight: Insight | None = None,
    measured: Sequence[Mapping[str, object]] = (),
    batch_size: int | None = None,
) -> Section:
    """The best errors of a run on so many classes, and how far the training went.

    Args:
      insight: of its validation images, where they are there.
      measured: what `evaluate` kept.
      batch_size: of the training, which says how long it took.
    """
    rates = run.splits["train"]["images_per_second"]
    pairs = [
        ("steps", f"{run.last('train', 'step'):,.0f}"),
        ("epochs", f"{run.last('train', 'epoch'):.1f}"),
        ("training loss", f"{run.last('train', 'loss'):z.3f}"),
        ("images a second", f"{np.median(rates):.0f}"),
    ]
    if batch_size is not None and (rates > 0).all():
        pairs.append(("time in steps", _duration(float((batch_size / rates).sum()))))
    text = ""
    best = run.best()
    if best is not None:
        first = [("best top-1 error", f"{best['top1_error']:.2%}")]
        if classes > CLASSES_WITHOUT_TOP5:
            first.append(("top-5 error there", f"{best['top5_error']:.2%}"))
        pairs[:0] = [*first, *_of_many_views(measured, int(best["step"]))]
        count = len(run.splits["validation"]["step"])
        text = (
            f"The best of {counting(count, 'validation')}, at step "
            f"{best['step']:,.0f}. It was chosen on the images that it is measured on, "
            "so that on new images the error is likely to be a little higher."
        )
    if insight is not None:
        pairs += [
            ("chance level", f"{insight.chance_level:.1%}"),
            ("training images", f"{insight.training:,}"),
            ("validation images", f"{insight.total:,}"),
        ]
    return Section("Result", [html.Numbers(pairs)], text)


def _of_many_views(
    measured: Sequence[Mapping[str, object]], step: int
) -> list[tuple[str, str]]:
    """The latest top-1 error over several crops of this run alone, at a step."""
    for line in reversed(measured):
        views, error = line.get("views"), line.get("top1_error")
        alone = line.get("members") == 1 and line.get("split") == "validation"
        members = line.get("checkpoints")
        there = isinstance(members, list) and str(members[0]).endswith(f":{step}")
        if not (alone and there):
            continue
        if isinstance(views, int) and views > 1 and isinstance(error, float):
            return [(f"top-1 error, {views} crops", f"{error:.2%}")]
    return []


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


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


def training(
    runs: Sequence[Curves],
    folder: Path,
    prefix: str = "",
    *,
    batches: str = "",
    chance: float | None = None,
) -> Section:
    """Loss, error and learning rate over epochs. The folder gets the PNG.

    Args:
      batches: what was done to the images of training alone.
      chance: the error of naming the largest class.
    """
    path = folder / f"{prefix}training.png"
    what = "Loss, top-1 error and learning rate over epochs"
    narrow = charts.training(runs, chance, narrow=True)
    chart = _draw(charts.training(runs, chance), path, what, narrow)
    text = [f"Training batches are seen {batches}." if batches else ""]
    rates = {float(rate) for run in runs for rate in run.splits["train"][RATE]}
    if len(rates) == 1:
        text.append(f"The learning rate was {rates.pop():g} all along.")
    elif len(runs) == 1 and runs[0].rate_drops():
        text.append("Dashed: the learning rate drops.")
    text.append("Pale: every batch; the line over it is a moving mean.")
    return Section("Training", [chart], " ".join(filter(None, text)))


def batches_of(config: Mapping[str, Mapping[str, object]], size: int, crop: int) -> str:
    """What a run does to the images of training alone, in words."""
    data, layers = config["data"], config["model"].get("layers", {})
    rows = layers.values() if isinstance(layers, Mapping) else ()
    drops = any("dropout" in row.get("then", ()) for row in rows)
    done = [
        "with dropout" if drops and config["model"].get("dropout") else "",
        "in random crops" if data.get("crops") and crop < size else "",
        "flipped at random" if data.get("flip") else "",
    ]
    *most, last = [text for text in done if text] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def speed(runs: Sequence[Curves], folder: Path, prefix: str = "") -> Section:
    """Images a second and the wait for data. The folder gets the PNG."""
    path = folder / f"{prefix}throughput.png"
    what = "Images a second and the wait for data"
    narrow = charts.throughput(runs, narrow=True)
    chart = _draw(charts.throughput(runs), path, what, narrow)
    return Section("Speed", [chart], "By the clock of the machine that trained.")


def kernels(first: Float[np.ndarray, "..."], folder: Path) -> list[Section]:
    """The first layer's kernels; none where they are not drawable."""
    if not kernel_sheet.is_drawable(first):
        return []
    path = folder / "kernels.png"
    with writing(path):
        folder.mkdir(exist_ok=True)
        Image.fromarray(kernel_sheet.labelled_sheet(first)).save(path)
    sheets = kernel_sheet.tower_sheets(first)
    text = "Each stretched to the full range around grey, which is zero"
    if len(sheets) > 1:
        text = f"Tower by tower. {text} (figure 3 of the paper)"
    names = [f"tower {n}" if len(sheets) > 1 else "" for n in range(len(sheets))]
    shown = [
        html.pixels(sheet, f"The first layer's kernels {name}".strip(), caption=name)
        for name, sheet in zip(names, sheets, strict=True)
    ]
    return [Section("Kernels of the first layer", shown, f"{text}.")]


def predictions(insight: Insight, folder: Path) -> list[Section]:
    """Examples with their best classes, and where the network is wrong."""
    held, total = len(insight.labels), insight.total
    among = f"all {held:,}" if held == total else f"{held:,} of {total:,}"
    what = "Images, their best classes and neighbours"
    narrow = charts.panel(insight, narrow=True)
    panel = _draw(charts.panel(insight), folder / "predictions.png", what, narrow)
    text = (
        f"Chosen by rule from {among} validation images: up to "
        f"{charts.PANEL_IMAGES // 2} that the network gets wrong, at even distances "
        "through all that it gets wrong; the others likewise from those that it gets "
        "right. Red: the right class. Beside each, its nearest images by the Euclidean "
        "distance of the last hidden layer (figure 4 of the paper)."
    )
    sections = [Section("Predictions", [panel], text)]
    text = f"All {total:,} validation images, one crop."
    if insight.unreadable:
        text += (
            f" {counting(insight.unreadable, 'image')} can't be read and are left out."
        )
    if len(insight.class_names) <= MOST_CLASSES_IN_A_MATRIX:
        path = folder / "confusion.png"
        narrow = charts.confusion(insight, narrow=True)
        matrix = _draw(charts.confusion(insight), path, "Confusion matrix", narrow)
        sections.append(Section("Confusions", [matrix], text))
    sections.append(Section("Errors by class", [errors_by_class(insight)], text))
    return sections


def errors_by_class(insight: Insight) -> Table:
    """Every class, those with the largest errors first."""
    classes, labels = len(insight.class_names), insight.every_label
    totals = np.bincount(labels, minlength=classes)
    missed = labels[labels != insight.every_prediction]
    wrong = np.bincount(missed, minlength=classes)
    errors = np.where(totals > 0, wrong / np.maximum(totals, 1), -1.0)
    rows = [
        (
            insight.class_names[label],
            f"{totals[label]:,}",
            f"{wrong[label]:,}",
            f"{errors[label]:.0%}" if totals[label] else "no image",
        )
        for label in np.argsort(-errors, kind="stable")
    ]
    summary = f"All {len(rows):,} classes" if len(rows) > OPEN_ROWS else ""
    return Table(("class", "images", "wrong", "error"), rows, 3, summary)


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


def _draw(
    figure: Figure, path: Path, description: str, narrow: Figure | None = None
) -> html.Drawing:
    """A chart for the page, and as a PNG on white in the colours of a light page."""
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
    ink = charts.INK
    return html.drawing(figure, path.stem, description, ink=ink, narrow=narrow)
