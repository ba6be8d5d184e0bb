"""The HTML report of a run, and the comparison of several.

Needs Matplotlib and Jinja2 (the extra `figures`). Both are imported when a report is
drawn: training starts without them, and without the second that they take to import.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.inference import inspection
from alexnet_jax.inference.evaluations import read_evaluations
from alexnet_jax.inference.trained import open_trained
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.metrics_file import METRICS_FILE, Curves, read_curves, read_spikes
from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.optional import is_installed, require


REPORT_FILE, COMPARISON_FILE = "report.html", "comparison.html"
PACKAGES = ("matplotlib", "jinja2")


def is_possible() -> bool:
    """Whether the packages that a report needs are installed."""
    return all(is_installed(package) for package in PACKAGES)


def _require_packages() -> None:
    for package in PACKAGES:
        require(package, "the report")


def write_report(workdir: Path, data_path: Path | None = None) -> Path:
    """Draw one run: `report.html` and `figures/*.png` in its work directory.

    Its data are at `data_path`, or where they were in training. Without them the report
    lacks predictions and errors by class, and standard error says so. Imported weights
    have no curves. Returns the page.

    Raises:
      InputError: if there is no run or checkpoint, or a package isn't installed.
    """
    _require_packages()
    from alexnet_jax.reporting import charts, html, sections

    folder = workdir / workdirs.FIGURES
    # Weights that were imported have no metrics.
    run = read_curves(workdir) if (workdir / METRICS_FILE).exists() else None
    network = open_trained(workdir, "best")
    classes = len(network.data.class_names)
    try:
        insight = inspection.look(network, data_path)
    except InputError as error:
        progress.say(f"no predictions in the report: {error}")
        insight = None
    starts = workdirs.read_starts(workdir)
    first_layer = next(iter(network.model.layers))
    first = np.asarray(network.plain_params[first_layer]["kernel"])
    with charts.styled():
        shown = [
            *([] if run is None else [sections.result(run, classes)]),
            *sections.evaluations(read_evaluations(workdir), classes),
            *([] if run is None else [sections.training([run], folder)]),
            *sections.kernels(first, folder),
            *([] if insight is None else sections.predictions(insight, folder)),
            *([] if run is None else [sections.speed([run], folder)]),
            *sections.time(starts),
            *sections.spikes(read_spikes(workdir)),
            sections.settings(
                workdirs.flat(workdirs.read_config(workdir)),
                [workdirs.flat(start) for start in starts],
            ),
        ]
    source = network.config.get("data", {}).get("source", "")
    subtitle = (
        f"{workdir.resolve()}, {source} data of {classes} classes, checkpoint of step "
        f"{network.step}"
    )
    page = html.render(f"Run {workdir.resolve().name}", subtitle, shown)
    return _write(workdir / REPORT_FILE, page)


def write_comparison(workdirs_given: Sequence[Path]) -> Path:
    """Draw several runs into one page, `comparison.html` of the first; returns it.

    Raises:
      InputError: as `write_report`.
    """
    _require_packages()
    from alexnet_jax.reporting import charts, html, sections

    runs = [_curves(workdir) for workdir in workdirs_given]
    configs = [workdirs.flat(workdirs.read_config(w)) for w in workdirs_given]
    first = workdirs_given[0]
    folder = first / workdirs.FIGURES
    with charts.styled():
        shown = [
            sections.results(runs),
            sections.training(runs, folder, "comparison_"),
            sections.speed(runs, folder, "comparison_"),
            sections.differences(runs, configs),
        ]
    page = html.render("Runs compared", ", ".join(run.name for run in runs), shown)
    return _write(first / COMPARISON_FILE, page)


def _curves(workdir: Path) -> Curves:
    if (workdir / workdirs.CONFIG_FILE).exists() and not (
        workdir / METRICS_FILE
    ).exists():
        raise InputError(
            f"{workdir} has no {METRICS_FILE}, as imported weights have none; compare "
            "runs that were trained"
        )
    return read_curves(workdir)


def _write(path: Path, page: str) -> Path:
    with writing(path):
        atomic.replace(path, page)
    return path
