"""Draw a run: curves, kernels, predictions, confusions, and a page with all of them.

    python -m alexnet_jax.figures --workdir=run
    python -m alexnet_jax.figures --workdir=run --workdir=run2

One run gets `figures/*.png` and `report.html` in its work directory; several are
compared, in `comparison.html` of the first. Needs `pip install matplotlib`.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.inference.inspection import Insight, look
from alexnet_jax.inference.trained import Member, open_member
from alexnet_jax.reporting import kernel_sheet
from alexnet_jax.reporting.html import Page
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.metrics_file import Curves, read_curves
from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.cli import Parser, run_command
from alexnet_jax.runtime.errors import InputError


REPORT_FILE, COMPARISON_FILE = "report.html", "comparison.html"
# More cells than that can't be read.
MOST_CLASSES_IN_A_MATRIX = 20
WORST_CLASSES = 50
DOTS_PER_INCH = 110


def is_possible() -> bool:
    """Whether Matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def _charts() -> Any:
    if not is_possible():
        raise InputError("figures need Matplotlib; `pip install matplotlib`")
    # An extra: not there to be imported where it isn't installed.
    from alexnet_jax.reporting import charts

    return charts


def write_report(workdir: Path, data_path: Path | None = None) -> Path:
    """Draw one run; returns its page.

    Args:
      workdir: of the run.
      data_path: where its data lie now; None where they lay.

    Raises:
      InputError: if there is no run or checkpoint, or Matplotlib isn't installed.
    """
    charts = _charts()
    run = read_curves(workdir)
    member = open_member(workdir, "best")
    try:
        insight = look(member, data_path)
    except InputError as error:
        progress.say(f"no predictions in the report: {error}")
        insight = None
    page = Page(f"Run {run.name}", _subtitle(workdir, member))
    page.section("Result")
    page.numbers(_numbers(run))
    with charts.styled():
        _add_curves(page, charts, [run], workdir)
        _add_kernels(page, member, workdir)
        if insight is not None:
            _add_insight(page, charts, insight, workdir)
        _add_throughput(page, charts, [run], workdir)
    _add_settings(page, workdir)
    return _write(workdir / REPORT_FILE, page)


def write_comparison(workdirs_given: Sequence[Path]) -> Path:
    """Draw several runs into one page; returns it.

    Raises:
      InputError: as `write_report`.
    """
    charts = _charts()
    runs = [read_curves(workdir) for workdir in workdirs_given]
    first = workdirs_given[0]
    page = Page("Runs compared", ", ".join(run.name for run in runs))
    page.section("Results")
    rows = []
    for run in runs:
        best = run.best()
        rows.append(
            (
                run.name,
                f"{run.last('train', 'step'):.0f}",
                f"{run.last('train', 'loss'):.3f}",
                "" if best is None else f"{best['top1_error']:.2%}",
                "" if best is None else f"{best['step']:.0f}",
            )
        )
    columns = ("run", "steps", "training loss", "best top-1 error", "at step")
    page.table(columns, rows, numbers=4)
    with charts.styled():
        _add_curves(page, charts, runs, first, "comparison_")
        _add_throughput(page, charts, runs, first, "comparison_")
    page.section(
        "What differs", "Keys of the configs that are not the same in all runs."
    )
    configs = [workdirs.flat(workdirs.read_config(w)) for w in workdirs_given]
    keys = sorted({key for config in configs for key in config})
    page.table(
        ("key", *(run.name for run in runs)),
        [
            (key, *(str(config.get(key)) for config in configs))
            for key in keys
            if len({str(config.get(key)) for config in configs}) > 1
        ],
    )
    return _write(first / COMPARISON_FILE, page)


def _write(path: Path, page: Page) -> Path:
    with writing(path):
        atomic.replace(path, page.html())
    return path


def _subtitle(workdir: Path, member: Member) -> str:
    classes = len(member.data.class_names)
    source = member.config.get("data", {}).get("source", "")
    return (
        f"{workdir.resolve()}, {source} data of {classes} classes, "
        f"checkpoint of step {member.step}"
    )


def _numbers(run: Curves) -> list[tuple[str, str]]:
    best = run.best()
    told = run.splits["train"]
    pairs = [
        ("steps", f"{run.last('train', 'step'):.0f}"),
        ("epochs", f"{run.last('train', 'epoch'):.1f}"),
        ("training loss", f"{run.last('train', 'loss'):.3f}"),
        ("images a second", f"{np.median(told['images_per_second']):.0f}"),
    ]
    if best is not None:
        pairs[:0] = [
            ("best top-1 error", f"{best['top1_error']:.2%}"),
            ("top-5 error there", f"{best['top5_error']:.2%}"),
        ]
    return pairs


def _save(figure: Any, workdir: Path, name: str) -> None:
    """As a PNG on white, in the text colour of a light page."""
    folder = workdir / workdirs.FIGURES
    path = folder / f"{name}.png"
    with writing(path):
        folder.mkdir(exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")


def _add_curves(
    page: Page, charts: Any, runs: list[Curves], workdir: Path, prefix: str = ""
) -> None:
    page.section("Training", "Dotted: training batches, with dropout and random crops.")
    figure = charts.training(runs)
    page.chart(
        figure, "Loss, top-1 error and learning rate over epochs", ink=charts.INK
    )
    _save(figure, workdir, f"{prefix}training")


def _add_throughput(
    page: Page, charts: Any, runs: list[Curves], workdir: Path, prefix: str = ""
) -> None:
    page.section("Speed", "By the clock of the machine that trained.")
    figure = charts.throughput(runs)
    page.chart(figure, "Images a second and the wait for data", ink=charts.INK)
    _save(figure, workdir, f"{prefix}throughput")


def _add_kernels(page: Page, member: Member, workdir: Path) -> None:
    first = np.asarray(member.plain_params[next(iter(member.model.layers))]["kernel"])
    if first.shape[3] != 3:
        return
    page.section(
        "Kernels of the first layer",
        "Tower by tower, each stretched to the full range around grey, which is zero "
        "(figure 3 of the paper).",
    )
    page.picture(kernel_sheet.kernel_sheet(first), "The kernels of the first layer")
    kernel_sheet.save_kernels(first, workdir / workdirs.FIGURES / "kernels.png")


def _add_insight(page: Page, charts: Any, insight: Insight, workdir: Path) -> None:
    seen = len(insight.labels)
    part = "all" if seen == insight.total else f"{seen} of {insight.total}"
    page.section(
        "Predictions",
        f"Red: the right class. Beside it the nearest of {part} validation pictures by "
        "the Euclidean distance of the last hidden layer (figure 4 of the paper).",
    )
    figure = charts.panel(insight)
    page.chart(figure, "Pictures, their best classes and neighbours", ink=charts.INK)
    _save(figure, workdir, "predictions")
    counts = insight.confusion()
    if len(insight.class_names) <= MOST_CLASSES_IN_A_MATRIX:
        page.section(
            "Confusions", f"{part.capitalize()} validation pictures, one crop."
        )
        figure = charts.confusion(insight)
        page.chart(figure, "Confusion matrix", ink=charts.INK)
        _save(figure, workdir, "confusion")
    totals = counts.sum(axis=1)
    wrong = totals - counts.diagonal()
    present = np.flatnonzero(totals)
    order = present[
        np.argsort(-(wrong / np.maximum(totals, 1))[present], kind="stable")
    ]
    page.section(
        "Errors by class", f"{part.capitalize()} validation pictures, one crop."
    )
    if len(order) > WORST_CLASSES:
        order = order[:WORST_CLASSES]
    page.table(
        ("class", "pictures", "wrong", "error"),
        [
            (
                insight.class_names[label],
                str(totals[label]),
                str(wrong[label]),
                f"{wrong[label] / totals[label]:.0%}",
            )
            for label in order
        ],
        numbers=3,
    )


def _add_settings(page: Page, workdir: Path) -> None:
    page.section("Config and versions")
    page.folded("Every key of the config")
    config = workdirs.flat(workdirs.read_config(workdir))
    page.table(("key", "value"), [(k, str(v)) for k, v in sorted(config.items())])
    page.unfold()
    for number, start in enumerate(workdirs.read_starts(workdir), start=1):
        page.folded(f"Start {number}: {start.get('time', '')}")
        page.table(
            ("what", "value"), [(k, str(v)) for k, v in workdirs.flat(start).items()]
        )
        page.unfold()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser("figures", description=__doc__)
    add = parser.add_argument
    parser.add_workdirs("to compare several")
    add(
        "--data_path",
        type=Path,
        metavar="PATH",
        help="where the data lie (default: as in the run)",
    )
    given = parser.parse_args(arguments)
    if len(given.workdir) == 1:
        path = write_report(given.workdir[0], given.data_path)
    else:
        path = write_comparison(given.workdir)
    progress.print_result({"report": str(path)})


if __name__ == "__main__":
    run_command(main)
