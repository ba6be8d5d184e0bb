"""How many epochs does a network need to a training error of 25 %, by non-linearity?

The four-layer network of figure 1 (the preset `four_layers`) on CIFAR-10, without any
regularisation, once with each non-linearity. Each is tuned separately: every learning
rate is tried for some epochs. The one that reached 25 % first, or else the lowest
error, continues with every seed until it reaches 25 % or the epochs are over.

    python experiments/relu/run.py --data=CIFAR --runs=FOLDER --output=FOLDER
        [--pixels whitened raw example] [--activations NAME ...] [--quick]

With `raw` pixels the network is given what the 2012 code's examples have: pixels minus
the mean image, far smaller initial kernels, and biases at twice the learning rate.
`example` is such an example itself, the one of four layers (`cifar10:cifar_19pct`): the
same, with averages in place of the last two maxima.

CIFAR is a prepared data set of 32x32, or a file by `arrays.py`. FOLDER of
`--runs` keeps every run, and the same command resumes it. `--quick` shows that it
works: a few epochs on scanned digits.

The training error is measured on the training batches, averaged over the epoch that
ends at a step.
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import numpy as np

from alexnet_jax import preset_config
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.runs.setup import Setup, build_setup
from alexnet_jax.runtime import cli, progress

import arrays
import harness
from signals import initial_signals


ACTIVATIONS = ("relu", "tanh", "sigmoid")
TITLES = {
    "whitened": "whitened pixels",
    "raw": "raw pixels",
    "example": "the 2012 code's example",
}
# Of which preset each is, and what it changes of its config.
PRESETS = {
    "whitened": "four_layers",
    "raw": "four_layers",
    "example": "cifar_19pct",
}
PIXELS: dict[str, dict[str, Any]] = {
    "whitened": {},
    "raw": {
        "model": {
            "standardize": False,
            "layers": {
                "conv1": {"kernel_std": 0.0001},
                "conv2": {"kernel_std": 0.01},
                "conv3": {"kernel_std": 0.01},
                "fc4": {"kernel_std": 0.01},
            },
        },
        "optimizer": {"bias_rate": 2.0},
    },
    "example": {"optimizer": {"weight_decay": 0.0}},
}
# Pixels span 256 levels, and gradients of the first kernels grow with them.
RATES = {
    "whitened": (0.003, 0.01, 0.03, 0.1),
    "raw": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "example": (0.0003, 0.001, 0.003, 0.01, 0.03),
}
TARGET = 0.25
BATCH = 128
POINTS_AN_EPOCH = 10
# The keys that distinguish the lines of the results.
IDENTITY = ("pixels", "activation", "rate", "seed", "chosen")


def set_up(
    dataset: Dataset,
    *,
    pixels: str,
    activation: str,
    rate: float,
    seed: int,
    epochs: float,
) -> Setup:
    """A run that ends at the target or after so many epochs."""
    per_epoch = len(dataset.splits["train"]) / BATCH
    config = preset_config(PRESETS[pixels])
    config.update(PIXELS[pixels])
    config.model.activation = activation
    config.data.update({"crop": dataset.size, "crops": False, "flip": False})
    # A constant rate.
    config.schedule.update({"kind": "steps", "epochs": (), "learning_rate": rate})
    config.train.update({"batch_size": BATCH, "epochs": epochs, "seed": seed})
    config.checkpoint.update(experiment.LATEST_ONLY)
    return build_setup(
        config,
        dataset,
        enough=lambda workdir: reached(workdir, per_epoch, epochs) is not None,
    )


def train(
    dataset: Dataset, folder: Path, *, epochs: float, **what: Any
) -> dict[str, Any]:
    """Train one run as far as it has to be, and give its result."""
    setup = set_up(dataset, epochs=epochs, **what)
    per_epoch = setup.plan.steps_per_epoch
    workdir = folder / "{pixels}/{activation}-{rate:g}-{seed}".format(**what)
    trained = experiment.fit(setup, workdir)
    return {
        **what,
        "diverged": trained is None,
        "epochs_to_target": reached(workdir, per_epoch, epochs),
        "curve": curve(workdir, per_epoch, epochs),
    }


def running_errors(workdir: Path, per_epoch: float, epochs: float) -> np.ndarray:
    """The training error averaged over the epoch that ends at each step, from the
    first whole epoch to the last of so many; the run may be longer."""
    lines = experiment.metrics_of(workdir, "train")[: round(epochs * per_epoch)]
    each = np.asarray([line["top1_error"] for line in lines])
    window = round(per_epoch)
    if len(each) < window:
        return np.zeros(0)
    sums = np.cumsum(np.concatenate([[0.0], each]))
    return (sums[window:] - sums[:-window]) / window


def reached(workdir: Path, per_epoch: float, epochs: float) -> float | None:
    """After how many of the epochs the training error is at the target, or None."""
    there = np.flatnonzero(running_errors(workdir, per_epoch, epochs) <= TARGET)
    if not len(there):
        return None
    return round(float(there[0] + round(per_epoch)) / per_epoch, 3)


def curve(workdir: Path, per_epoch: float, epochs: float) -> list[list[float]]:
    """Pairs of epoch and training error, ten an epoch."""
    running = running_errors(workdir, per_epoch, epochs)
    window = round(per_epoch)
    places = range(0, len(running), max(1, window // POINTS_AN_EPOCH))
    return [
        [round((place + window) / per_epoch, 2), round(float(running[place]), 4)]
        for place in places
    ]


def experiments(
    dataset: Dataset, given: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Every run, one after the other, activation by activation."""
    for pixels, activation in itertools.product(given.pixels, given.activations):
        what = {"pixels": pixels, "activation": activation}
        # Nothing is trained for these.
        untrained = set_up(dataset, **what, rate=0.0, seed=0, epochs=1.0)
        yield {**what, "signals": initial_signals(untrained)}

        run = functools.partial(train, dataset, given.runs, **what)
        tuned = [
            run(rate=rate, seed=0, epochs=given.tuning_epochs)
            for rate in given.rates or RATES[pixels]
        ]
        yield from tuned
        best = min(tuned, key=promise)["rate"]
        for seed in range(given.seeds):
            result = run(rate=best, seed=seed, epochs=given.epochs)
            yield {**result, "chosen": True}


def promise(result: dict[str, Any]) -> tuple[int, float]:
    """The smaller, the better a learning rate did in tuning."""
    if result["epochs_to_target"] is not None:
        return (0, result["epochs_to_target"])
    if result.get("diverged") or not result["curve"]:
        return (2, 0.0)
    return (1, result["curve"][-1][1])


def summary(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """The table: for each network and learning rate, and for every seed, the epochs to
    the target or, where it wasn't reached, how many were trained."""
    chosen = [result for result in results if result.get("chosen")]
    table = {}
    for result in chosen:
        empty = {"epochs": [], "not_reached_in": []}
        name = f"{result['activation']}, {result['pixels']}, rate {result['rate']:g}"
        row = table.setdefault(name, empty)
        row["epochs"].append(result["epochs_to_target"])
        if result["epochs_to_target"] is None:
            learned = result["curve"][-1][0] if result["curve"] else 0.0
            row["not_reached_in"].append(learned)
    return table


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Figure 1: training error against epochs, a line for each seed."""
    from matplotlib import pyplot

    lines = [result for result in results if result.get("chosen") and result["curve"]]
    shown = [name for name in PIXELS if any(line["pixels"] == name for line in lines)]
    colours = dict(zip(ACTIVATIONS, ("black", "tab:red", "tab:blue"), strict=True))
    count = max(1, len(shown))
    figure, panels = pyplot.subplots(
        1, count, figsize=(5.5 * count, 4), sharey=True, squeeze=False
    )
    for axes, pixels in zip(panels[0], shown, strict=False):
        styles = {}
        for result in (line for line in lines if line["pixels"] == pixels):
            activation = result["activation"]
            name = f"{activation}, rate {result['rate']:g}"
            # A further learning rate is dotted.
            further = any(other.startswith(f"{activation},") for other in styles)
            style = ":" if further else "-" if activation == "relu" else "--"
            axes.plot(
                *np.transpose(result["curve"]),
                color=colours[activation],
                linestyle=styles.get(name, style),
                label=None if name in styles else name,
            )
            styles.setdefault(name, style)
        axes.axhline(TARGET, color="grey", linewidth=0.8)
        axes.set_title(TITLES[pixels])
        axes.set_xlabel("epochs")
        axes.set_ylim(0, 1)
        axes.legend()
    panels[0, 0].set_ylabel("training error")
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)


def main() -> None:
    parser = experiment.parser(__doc__, data="CIFAR", quick="a few epochs on digits")
    add = parser.add_argument
    add("--activations", nargs="+", default=ACTIVATIONS, choices=ACTIVATIONS)
    add("--pixels", nargs="+", default=["whitened"], choices=list(PIXELS))
    add("--rates", nargs="+", type=float, help="learning rates to choose from")
    add("--tuning_epochs", type=float, default=3.0)
    add("--epochs", type=float, default=150.0)
    add("--seeds", type=int, default=3)
    given = parser.parse_args()
    if given.quick:
        given.rates, given.seeds = (0.03,), 1
        given.tuning_epochs, given.epochs = 1.0, 3.0
    dataset = arrays.chosen(given, parser, quick_size=16)
    path = given.output / "relu.jsonl"
    machine = harness.machine("jax", "flax", "optax")
    for result in experiments(dataset, given):
        experiment.keep(path, {**result, **machine}, *IDENTITY)
    # Together with the results of other commands.
    results = experiment.kept(path)
    draw(results, given.output / "relu.svg")
    done = {"experiment": "relu", "target": TARGET, "table": summary(results)}
    progress.print_result(done)


if __name__ == "__main__":
    cli.run_command(main)
