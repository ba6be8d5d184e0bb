"""Sections of the report that take longer, and are drawn where they are asked for."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_jax.analysis import best_images, embedding, explaining
from alexnet_jax.analysis.best_so_far import towers_of
from alexnet_jax.inference.inspection import Insight, rows_of
from alexnet_jax.inference.members import open_data
from alexnet_jax.inference.trained import TrainedNetwork, open_trained
from alexnet_jax.reporting import (
    best_sheet,
    explanation_sheet,
    html,
    image_map,
    kernel_sheet,
)
from alexnet_jax.reporting.html import Section
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runtime import paths, progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError


# Best images of a unit, units of each tower on the page, and units in a row.
TOP, UNITS, COLUMNS = 9, 24, 8


@dataclasses.dataclass(frozen=True)
class Extras:
    """What a report is asked to show beside the usual.

    Attributes:
      explain: image files to explain.
      best: the layer whose units' best images are shown; None for none.
      map: whether the map of the validation images is.
      animation: a file for the kernels over the run; None for none.
    """

    explain: tuple[Path, ...] = ()
    best: str | None = None
    map: bool = False
    animation: Path | None = None

    def check(self, network: TrainedNetwork) -> None:
        """Raise an InputError for what can't be drawn, before anything is."""
        if self.best is not None:
            best_images.layer_of(network, self.best)
        if self.animation is not None:
            kernel_sheet.check_animation(self.animation)
        for image in self.explain:
            if not image.is_file():
                raise InputError(f"--explain={image} is not a file")


def sections(
    extras: Extras,
    network: TrainedNetwork,
    data_path: Path | None,
    insight: Insight | None,
) -> list[Section]:
    """The sections asked for, in the style that is in force; needs `insight` for those
    of validation images."""
    folder = network.workdir / workdirs.FIGURES
    shown = []
    if extras.animation is not None:
        write_animation(network.workdir, extras.animation)
    if insight is None and (extras.best is not None or extras.map):
        raise InputError(
            "--best and --map show validation images, which can't be read; "
            "--data_path=PATH says where they are"
        )
    if insight is not None and extras.map:
        shown.append(_map(insight, folder))
    if extras.best is not None:
        shown.append(_best(network, data_path, extras.best, folder))
    names = names_of(extras.explain)
    for image, name in zip(extras.explain, names, strict=True):
        shown.append(_explained(network, image, name))
    return shown


def write_animation(workdir: Path, path: Path) -> None:
    """Draw the first layer's kernels at every checkpoint of a run.

    Raises:
      InputError: if there are fewer than two, or the kernels see no three colours.
    """
    folder = workdir / workdirs.CHECKPOINTS
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())
    if len(steps) < 2:
        raise InputError(
            f"{workdir} has {progress.counting(len(steps), 'checkpoint')}, and an "
            "animation needs several; --config.train.save_steps=N with "
            "--config.checkpoint.keep_every=N keeps more"
        )
    kernels_at = {}
    with progress.counted("checkpoints", len(steps)) as advance:
        for step in steps:
            network = open_trained(workdir, step)
            first = next(iter(network.model.layers))
            kernels = np.asarray(network.plain_params[first]["kernel"])
            if not kernel_sheet.is_drawable(kernels):
                raise InputError(f"{first} is no convolution of three colours")
            kernels_at[step] = kernels
            advance(1)
    kernel_sheet.write_animation(kernels_at, path)


def names_of(images: Sequence[Path]) -> list[str]:
    """A name for each image, no two alike: without endings and folders if they differ
    so."""
    stems = [image.stem for image in images]
    if len({*stems}) == len(stems):
        return stems
    return [re.sub(r"[/.]", "-", name) for name in paths.distinct_names(images)]


def _map(insight: Insight, folder: Path) -> Section:
    if len(insight.images) < embedding.FEWEST:
        raise InputError(f"a map needs {embedding.FEWEST} validation images")
    cells = embedding.on_a_grid(embedding.two_dimensional(insight.hidden))
    sheet = image_map.draw(insight.images, cells, insight.labels)
    _save(sheet, folder / "map.png")
    shown = html.pixels(sheet, "Validation images by likeness", smooth=True)
    text = (
        f"{len(insight.images):,} validation images, near each other where the last "
        "hidden layer is alike: t-SNE of its first principal components, then the "
        "nearest free cell of a grid. Distances between groups mean little."
    )
    return Section("Map of the last hidden layer", [shown], text)


def _best(
    network: TrainedNetwork, data_path: Path | None, layer: str, folder: Path
) -> Section:
    layer = best_images.layer_of(network, layer)
    path = network.data_path if data_path is None else str(data_path)
    source = open_data(network, path).dataset.splits["validation"]
    width = best_images.width_of(network, layer)
    towers = towers_of(network.model, layer)
    per_tower = width // towers
    units = [
        tower * per_tower + int(unit)
        for tower in range(towers)
        for unit in np.unique(np.linspace(0, per_tower - 1, UNITS).astype(int))
    ]
    chosen = ",".join(map(str, units))
    best = best_images.strongest(
        network, rows_of(source), len(source), layer, TOP, units=chosen
    )
    sheet = best_sheet.draw(best, COLUMNS)
    _save(sheet, folder / f"best_{layer}.png")
    shown = html.pixels(sheet, f"The best images of units of {layer}", smooth=True)
    text = (
        f"The {TOP} validation images that move a unit of {layer} most, cut to what it "
        f"sees of them; {len(units)} of {width:,} units, evenly chosen. "
        "`features --top` has all."
    )
    return Section(f"Best images of {layer}", [shown], text)


def _explained(network: TrainedNetwork, image: Path, name: str) -> Section:
    explained = explaining.explain(network.workdir, image, checkpoint=network.step)
    path = network.workdir / workdirs.FIGURES / f"explain_{name}.png"
    explanation_sheet.write(explained, path)
    sheet = np.asarray(Image.open(path).convert("RGB"))
    best = explained.class_names[explained.label]
    shown = html.pixels(sheet, f"What speaks for {best} in {image.name}", smooth=True)
    title = image.name if name == image.stem else name
    return Section(f"Explanation of {title}", [shown])


def _save(sheet: np.ndarray, path: Path) -> None:
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(sheet).save(path)
