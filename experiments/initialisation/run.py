"""Why does the 2012 code's network learn, and the paper's text not?

The two have five differences. Each is changed alone, from the code's value to
the paper's and from the paper's to the code's, and the network learns scanned digits as
the quickstart does: 67x67 pixels, batches of 32, ten epochs, the learning rate divided
by ten after nine. Before the first step the size of signal and gradient is measured in
every layer.

    python experiments/initialisation/run.py --runs=FOLDER --output=FOLDER [--quick]

FOLDER of `--runs` keeps every run, and the same command resumes it.
`--quick` shows that it works: both ends of the chain, some steps.
"""

import operator
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
from alexnet_jax.nn.presets import CODE2012
from alexnet_jax.runs.config import plain
from alexnet_jax.runs.config_changes import differences
from alexnet_jax.runs.config_file import ConfigDict
from alexnet_jax.runs.setup import build_setup
from alexnet_jax.runtime import cli, progress

import arrays
import harness
from commands import narrow
from signals import initial_signals


BATCH, EPOCHS, DROP, SIZE, CROP = 32, 10.0, 9.0, 77, 67
MEAN_OVER = 20

# What differs between the two presets, by key.
DIFFERENCES = {
    "initial kernels of conv3 to conv5": (
        "model.layers.conv3.kernel_std",
        "model.layers.conv4.kernel_std",
        "model.layers.conv5.kernel_std",
    ),
    "rate and decay of biases": (
        "optimizer.bias_rate",
        "optimizer.bias_weight_decay",
        "schedule.bias_drops",
    ),
    "normalisation before ReLU in conv1": ("model.layers.conv1.then",),
    "alpha of the normalisation": ("model.norm_alpha",),
    "same-map normalisation": ("model.layers.conv2.then",),
}


def networks() -> Iterator[tuple[str, ConfigDict]]:
    """The networks by name: both presets, and each with one of the other's values."""
    yield from ((name, preset_config(name)) for name in ("code2012", "paper"))
    for begin, other in (("code2012", "paper"), ("paper", "code2012")):
        for name, keys in DIFFERENCES.items():
            config, values = preset_config(begin), preset_config(other)
            for key in keys:
                value = operator.attrgetter(key)(values)
                config.update_from_flattened_dict({key: value})
            yield f"{begin}, but {name} as in {other}", config


def check() -> None:
    """The differences are all there are."""
    known = {key for keys in DIFFERENCES.values() for key in keys}
    ends = (plain(preset_config(name)) for name in ("code2012", "paper"))
    found = {key for key, *_ in differences(*ends)}
    assert found == known, found ^ known


def train(
    dataset: Dataset,
    name: str,
    config: ConfigDict,
    seed: int,
    epochs: float,
    folder: Path,
) -> dict[str, Any]:
    """One network's signals, its losses and its errors."""
    # Digits mean something else mirrored.
    config.data.update({"crop": CROP, "flip": False})
    config.schedule.update({"kind": "steps", "epochs": (DROP,)})
    config.train.update({"batch_size": BATCH, "epochs": epochs, "seed": seed})
    config.checkpoint.update(experiment.LATEST_ONLY)
    setup = build_setup(config, dataset)
    workdir = folder / f"{name}-{seed}".replace(" ", "_").replace(",", "")
    trained = experiment.fit(setup, workdir)
    losses = [line["loss"] for line in experiment.metrics_of(workdir, "train")]
    held_out = experiment.metrics_of(workdir, "validation")
    return {
        "network": name,
        "seed": seed,
        "diverged": trained is None,
        "signals": initial_signals(setup),
        "losses": [round(loss, 4) for loss in losses],
        "errors": [round(line["top1_error"], 5) for line in held_out],
    }


def draw(results: Sequence[dict[str, Any]], folder: Path) -> None:
    """Learning curves, and the sizes of signal and gradient by layer."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axes, begin in zip(panels, ("code2012", "paper"), strict=True):
        for result in results:
            name = result["network"]
            if result["seed"] or not name.startswith(begin):
                continue
            losses = np.asarray(result["losses"])
            window = min(MEAN_OVER, len(losses))
            smooth = np.convolve(losses, np.ones(window) / window, "valid")
            label = name.removeprefix(f"{begin}, but ").rpartition(" as in ")
            axes.plot(smooth, label=label[0] or label[2])
        axes.set_title(f"{begin}, one thing changed at a time")
        axes.set_xlabel("step")
        axes.legend(fontsize=7)
    panels[0].set_ylabel(f"training loss, mean of {MEAN_OVER} steps")
    figure.tight_layout()
    figure.savefig(folder / "losses.svg", bbox_inches="tight")

    ends = [r for r in results if r["network"] in ("code2012", "paper")]
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for result in (r for r in ends if not r["seed"]):
        layers = [size["layer"] for size in result["signals"]]
        ratios = [s["signal"] / max(s["constant"], 1e-12) for s in result["signals"]]
        panels[0].semilogy(layers, ratios, marker="o", label=result["network"])
        gradients = [size["gradient"] for size in result["signals"]]
        panels[1].semilogy(layers, gradients, marker="o", label=result["network"])
    panels[0].set_ylabel("variation between images / common part")
    panels[1].set_ylabel("gradient's norm / kernel's norm")
    for axes in panels:
        axes.tick_params(axis="x", rotation=45)
        axes.legend()
    figure.tight_layout()
    figure.savefig(folder / "signals.svg", bbox_inches="tight")
    pyplot.close("all")


def main() -> None:
    parser = experiment.parser(__doc__, quick="both ends, some steps")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    check()
    dataset = arrays.digits(SIZE)
    chosen, epochs = list(networks()), EPOCHS
    if given.quick:
        chosen, epochs, given.seeds = chosen[:2], 0.1, 1
        small = {f"model.layers.{k}": v for k, v in narrow(CODE2012).items()}
        for _, config in chosen:
            config.update_from_flattened_dict(small)
    path = given.output / "initialisation.jsonl"
    results, table = [], {}
    for seed in range(given.seeds):
        for name, config in chosen:
            progress.say(f"{name}, seed {seed}")
            result = train(dataset, name, config, seed, epochs, given.runs)
            experiment.keep(path, result, "network", "seed")
            results.append(result)
            last = result["errors"][-1] if result["errors"] else None
            table.setdefault(name, []).append(last)
    done = {
        "experiment": "initialisation",
        "last_errors": table,
        **harness.machine("jax", "flax", "optax"),
    }
    experiment.keep(path, done, "network", "seed")
    draw(results, given.output)
    progress.print_result(done)


if __name__ == "__main__":
    cli.run_command(main)
