"""The experiment's figures, from all the results that lie in its folder."""

from pathlib import Path
from typing import Any

import numpy as np

import experiment
from zhang import NETWORKS


LABELS = ("plain", *(f"{part} % random labels" for part in (20, 40, 60, 80)))
# Examples for each parameter that a rule of thumb of classical statistics asks for.
CLASSICAL = 10


def draw(folder: Path) -> None:
    """Learning curves of each network, error against corruption, error against size."""
    from matplotlib import pyplot

    results = [
        result
        for network in NETWORKS
        for result in experiment.kept(folder / f"{network}.jsonl")
    ]
    results.sort(key=lambda result: result["parameters"])
    networks = list(dict.fromkeys(result["network"] for result in results))
    figure, rows = pyplot.subplots(
        len(networks), 2, figsize=(9, 3.2 * len(networks)), squeeze=False
    )
    for axes, network in zip(rows, networks, strict=True):
        own = [result for result in results if result["network"] == network]
        name = f"{network}, {max(result['epochs'] for result in own):g} epochs"
        _curves(axes[0], own, name)
        _corruption(axes[1], own, name)
    figure.tight_layout()
    figure.savefig(folder / "learning.svg", bbox_inches="tight")
    figure, axes = pyplot.subplots(figsize=(6, 4))
    _sizes(axes, results)
    figure.savefig(folder / "sizes.svg", bbox_inches="tight")
    pyplot.close("all")


def _curves(axes: Any, results: list[dict[str, Any]], title: str) -> None:
    for row in ("plain", "random labels", "shuffled pixels", "random pixels"):
        for result in results:
            if result["row"] == row and result["curve"]:
                epochs, losses = np.transpose(result["curve"])[:2]
                name = "true labels" if row == "plain" else row
                axes.plot(epochs, losses, label=name)
    axes.set_title(title)
    axes.set_xlabel("epochs")
    axes.set_ylabel("training loss")
    if axes.lines:
        axes.legend()


def _corruption(axes: Any, results: list[dict[str, Any]], title: str) -> None:
    rows = (*LABELS, "random labels")
    places = [(100 * n // 5, row) for n, row in enumerate(rows)]
    for split, style in (("train", "k--"), ("test", "k-")):
        points = [
            (part, 100 * result[split]["top1_error"])
            for part, row in places
            for result in results
            if result["row"] == row
        ]
        if points:
            axes.plot(*np.transpose(points), style, marker="o", label=f"{split} error")
    axes.set_title(title)
    axes.set_xlabel("random training labels, %")
    axes.set_ylabel("error, %")
    axes.set_ylim(-3, 103)
    axes.legend()


def _sizes(axes: Any, results: list[dict[str, Any]]) -> None:
    """Error of training and test against parameters for each example."""
    for result in results:
        if result["row"] not in ("plain", "random labels"):
            continue
        random = result["row"] != "plain"
        size = result["parameters_per_example"]
        colour = "tab:red" if random else "black"
        for split, marker in (("train", "x"), ("test", "o")):
            error = 100 * result[split]["top1_error"]
            name = f"{'random' if random else 'true'} labels, {split}"
            shown = name not in axes.get_legend_handles_labels()[1]
            axes.plot(size, error, marker, color=colour, label=name if shown else None)
        if not random:
            side = "right" if len(axes.texts) % 2 == 0 else "left"
            label = f"{result['network']},\n{result['epochs']:g} epochs"
            axes.annotate(label, (size, -14), ha=side, fontsize=7)
    axes.axvspan(0.02, 1 / CLASSICAL, color="tab:green", alpha=0.15)
    axes.text(0.022, 50, f"{CLASSICAL} examples\na parameter", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("parameters for each training example")
    axes.set_ylabel("error, %")
    axes.set_xlim(0.02, 500)
    axes.set_ylim(-16, 103)
    axes.legend()
