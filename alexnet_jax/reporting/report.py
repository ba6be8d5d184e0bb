"""The HTML report of a run, and the comparison of several.

Needs Matplotlib and Jinja2 (the extra `figures`). Both are imported when a report is
drawn: training starts without them, and without the second that they take to import.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax.inference import inspection
from alexnet_jax.inference.evaluations import read_evaluations
from alexnet_jax.inference.trained import TrainedNetwork, open_trained
from alexnet_jax.runs import config_changes
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import completed
from alexnet_jax.runs.metrics_file import METRICS_FILE, Curves, read_curves, read_spikes
from alexnet_jax.runtime import atomic, paths, progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.optional import is_installed, require


if TYPE_CHECKING:
    from alexnet_jax.reporting import html

REPORT_FILE, COMPARISON_FILE = "report.html", "comparison.html"
PACKAGES = ("matplotlib", "jinja2")


def is_possible() -> bool:
    """Whether the packages that a report needs are installed."""
    return all(is_installed(package) for package in PACKAGES)


def _require_packages() -> None:
    for package in PACKAGES:
        require(package, "the report")


def write_report(
    workdir: Path,
    data_path: Path | None = None,
    *,
    explain: Sequence[Path] = (),
    best: str | None = None,
    with_map: bool = False,
    animation: Path | None = None,
) -> Path:
    """Draw one run: `report.html` and `figures/*.png` in its work directory.

    Its data are at `data_path`, or where they were in training. Without them the report
    lacks predictions and errors by class, and standard error says so. Imported weights
    have no curves. Returns the page.

    Args:
      explain: image files to explain.
      best: the layer whose units' best images are shown; None for none.
      with_map: whether the map of the validation images is shown.
      animation: a file for the kernels over the run; None for none.

    Raises:
      InputError: if there is no run or checkpoint, a package isn't installed, or what
        is asked for can't be drawn.
    """
    _require_packages()
    from alexnet_jax.reporting import charts, extras, html

    # Weights that were imported have no metrics.
    run = read_curves(workdir) if (workdir / METRICS_FILE).exists() else None
    network = open_trained(workdir, "best")
    more = extras.Extras(tuple(explain), best, with_map, animation)
    more.check(network)
    try:
        insight = inspection.look(network, data_path)
    except InputError as error:
        progress.say(f"no predictions in the report: {error}")
        insight = None
    with charts.styled():
        added = extras.sections(more, network, data_path, insight)
        shown = _sections(network, run, insight, added)
    source = network.config.get("data", {}).get("source", "")
    subtitle = (
        f"{workdir.resolve()}, {source} data of {len(network.data.class_names)} "
        f"classes, checkpoint of step {network.step}"
    )
    page = html.render(f"Run {workdir.resolve().name}", subtitle, shown)
    return _write(workdir / REPORT_FILE, page)


def _sections(
    network: TrainedNetwork,
    run: Curves | None,
    insight: inspection.Insight | None,
    added: Sequence["html.Section"],
) -> list["html.Section"]:
    """The sections of a run's page, in their order."""
    from alexnet_jax.reporting import course, sections

    workdir, data = network.workdir, network.data
    folder, classes = workdir / workdirs.FIGURES, len(data.class_names)
    starts = workdirs.read_starts(workdir)
    config, measured = completed(network.config), read_evaluations(workdir)
    first_layer = next(iter(network.model.layers))
    first = np.asarray(network.plain_params[first_layer]["kernel"])
    shown = []
    if run is not None:
        batch_size = config["train"]["batch_size"]
        assert isinstance(batch_size, int)
        chance = None if insight is None else insight.chance_level
        batches = sections.batches_of(config, data.size, data.crop)
        shown = [
            sections.result(
                run,
                classes,
                insight=insight,
                measured=measured,
                batch_size=batch_size,
            ),
            sections.training([run], folder, batches=batches, chance=chance),
        ]
    return [
        *shown,
        *sections.evaluations(measured, classes),
        *sections.kernels(first, folder),
        *([] if insight is None else sections.predictions(insight, folder)),
        *added,
        *([] if run is None else [sections.speed([run], folder)]),
        *course.time(starts),
        *course.spikes(read_spikes(workdir)),
        sections.settings(
            config_changes.flat(workdirs.read_config(workdir)),
            [config_changes.flat(start) for start in starts],
        ),
    ]


def write_comparison(workdirs_given: Sequence[Path]) -> Path:
    """Draw several runs into one page, `comparison.html` of the first; returns it.

    Raises:
      InputError: as `write_report`.
    """
    _require_packages()
    from alexnet_jax.reporting import charts, html, sections

    names = paths.distinct_names(workdirs_given)
    runs = [
        _curves(workdir)._replace(name=name)
        for workdir, name in zip(workdirs_given, names, strict=True)
    ]
    configs = [config_changes.flat(workdirs.read_config(w)) for w in workdirs_given]
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
