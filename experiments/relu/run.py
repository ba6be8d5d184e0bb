"""How many epochs does a network need to a training error of 25 %, by non-linearity?

The four-layer network of figure 1 (`four_layers` in `configs/preset_values.py`) on
CIFAR-10, without any regularisation, once with each non-linearity. Each is tuned by
itself: every rate learns for some epochs, and the one that came to 25 % first, or else
came lowest, goes on, with every seed, until it is there or the epochs are over.

    python experiments/relu/run.py --data=CIFAR --runs=FOLDER --output=FOLDER [--quick]

CIFAR is a prepared data set of 32x32, or a file by `arrays.save_arrays`. FOLDER of
`--runs` keeps every run, and the same command goes on where it stood. `--quick` shows
that it works: a few epochs on scanned digits.

The training error is that of the pictures as they are learned from, averaged over the
epoch that ends at a step.
"""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import numpy as np
from preset_values import merged

from alexnet_jax import errors, progress

import arrays
import harness
import in_memory
from signals import initial_signals


ACTIVATIONS = ("relu", "tanh", "sigmoid")
RATES = (0.003, 0.01, 0.03, 0.1)
TARGET = 0.25
BATCH = 128
POINTS_AN_EPOCH = 10
# What tells the lines of the results apart.
IDENTITY = ("activation", "rate", "seed", "chosen")


def train(dataset, *, activation, rate, seed, epochs, folder):
    """A run up to the target or so many epochs; what became of it."""
    per_epoch = len(dataset.splits["train"]) / BATCH
    workdir = folder / f"{activation}-{rate:g}-{seed}"
    values = merged("four_layers")
    values["model"]["activation"] = activation
    values["schedule"]["learning_rate"] = rate
    state = in_memory.fit(
        workdir,
        dataset,
        values,
        batch_size=BATCH,
        epochs=epochs,
        seed=seed,
        crop=dataset.size,
        validates=False,
        enough=lambda workdir: reached(workdir, per_epoch) is not None,
    )
    return {
        "activation": activation,
        "rate": rate,
        "seed": seed,
        "diverged": state is None,
        "epochs_to_target": reached(workdir, per_epoch),
        "curve": curve(workdir, per_epoch),
    }


def running_errors(workdir, per_epoch):
    """The training error averaged over the epoch that ends at each step, from the
    first whole epoch on."""
    lines = in_memory.metrics_of(workdir, "train")
    each = np.asarray([line["top1_error"] for line in lines])
    window = round(per_epoch)
    if len(each) < window:
        return np.zeros(0)
    sums = np.cumsum(np.concatenate([[0.0], each]))
    return (sums[window:] - sums[:-window]) / window


def reached(workdir, per_epoch):
    """After how many epochs the training error is at the target, or None."""
    there = np.flatnonzero(running_errors(workdir, per_epoch) <= TARGET)
    if not len(there):
        return None
    return round(float(there[0] + round(per_epoch)) / per_epoch, 3)


def curve(workdir, per_epoch):
    """Pairs of epoch and training error, ten an epoch."""
    running = running_errors(workdir, per_epoch)
    window = round(per_epoch)
    places = range(0, len(running), max(1, window // POINTS_AN_EPOCH))
    return [
        [round((place + window) / per_epoch, 2), round(float(running[place]), 4)]
        for place in places
    ]


def experiments(dataset, given):
    """Every run, one after the other, activation by activation."""
    for activation in given.activations:
        values = merged("four_layers")["model"] | {"activation": activation}
        sizes = initial_signals(dataset, values, dataset.size)
        yield {"activation": activation, "signals": sizes}
        common = {"activation": activation, "folder": given.runs}
        tuned = [
            train(
                dataset,
                rate=rate,
                seed=0,
                epochs=given.tuning_epochs,
                **common,
            )
            for rate in given.rates
        ]
        yield from tuned
        best = min(tuned, key=promise)["rate"]
        for seed in range(given.seeds):
            result = train(
                dataset,
                rate=best,
                seed=seed,
                epochs=given.epochs,
                **common,
            )
            yield {**result, "chosen": True}


def promise(result):
    """The smaller, the better a rate did in tuning."""
    if result["epochs_to_target"] is not None:
        return (0, result["epochs_to_target"])
    if result.get("diverged") or not result["curve"]:
        return (2, 0.0)
    return (1, result["curve"][-1][1])


def summary(results):
    """The table: for each non-linearity its rate and the epochs of every seed."""
    chosen = [result for result in results if result.get("chosen")]
    table = {}
    for result in chosen:
        row = table.setdefault(
            result["activation"], {"rate": result["rate"], "epochs": []}
        )
        row["epochs"].append(result["epochs_to_target"])
    return table


def draw(results, path):
    """Figure 1: training error against epochs, a line for each seed."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    colours = dict(zip(ACTIVATIONS, ("black", "tab:red", "tab:blue"), strict=True))
    lines = [result for result in results if result.get("chosen") and result["curve"]]
    for number, result in enumerate(lines):
        activation = result["activation"]
        first = activation not in [line["activation"] for line in lines[:number]]
        axes.plot(
            *np.transpose(result["curve"]),
            color=colours[activation],
            linestyle="-" if activation == "relu" else "--",
            label=f"{activation}, rate {result['rate']:g}" if first else None,
        )
    axes.axhline(TARGET, color="grey", linewidth=0.8)
    axes.set_xlabel("epochs")
    axes.set_ylabel("training error")
    axes.set_ylim(0, 1)
    axes.legend()
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)


def main():
    parser = experiment.parser(__doc__, data="CIFAR", quick="a few epochs on digits")
    add = parser.add_argument
    add("--activations", nargs="+", default=ACTIVATIONS, choices=ACTIVATIONS)
    add("--rates", nargs="+", type=float, default=RATES)
    add("--tuning_epochs", type=float, default=3.0)
    add("--epochs", type=float, default=150.0)
    add("--seeds", type=int, default=3)
    given = parser.parse_args()
    if given.quick:
        given.rates, given.seeds = (0.03,), 1
        given.tuning_epochs, given.epochs = 1.0, 3.0
    dataset = arrays.chosen(given, parser, quick_size=16)
    path = given.output / "relu.jsonl"
    for result in experiments(dataset, given):
        experiment.keep(path, result, *IDENTITY)
    done = {
        "experiment": "relu",
        "target": TARGET,
        "table": summary(experiment.kept(path)),
        **harness.machine("jax", "flax", "optax"),
    }
    draw(experiment.keep(path, done, *IDENTITY), given.output / "relu.svg")
    progress.print_result(done)


if __name__ == "__main__":
    errors.exit_with(main)
