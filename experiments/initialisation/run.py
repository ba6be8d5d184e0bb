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

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import numpy as np

from alexnet_jax.runtime import cli, progress

import arrays
import harness
import in_memory
from sections import flat, preset, put
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


def networks():
    """The networks by name: both presets, and each with one of the other's values."""
    ends = {"code2012": preset("code2012"), "paper": preset("paper")}
    yield from ends.items()
    for begin, other in (("code2012", "paper"), ("paper", "code2012")):
        for name, keys in DIFFERENCES.items():
            values = preset(begin)
            for key in keys:
                put(values, key, flat(ends[other])[key])
            yield f"{begin}, but {name} as in {other}", values


def check():
    """The differences are all there are."""
    known = {key for keys in DIFFERENCES.values() for key in keys}
    code, paper = flat(preset("code2012")), flat(preset("paper"))
    found = {key for key in code if code[key] != paper[key]}
    assert found == known, found ^ known


def train(dataset, name, values, seed, epochs, folder):
    """One network's signals, its losses and its errors."""
    values["schedule"].update(kind="steps", epochs=(DROP,))
    place = f"{name}-{seed}".replace(" ", "_").replace(",", "")
    state = in_memory.fit(
        folder / place,
        dataset,
        values,
        batch_size=BATCH,
        epochs=epochs,
        seed=seed,
        crop=CROP,
        crops=True,
    )
    losses = [line["loss"] for line in in_memory.metrics_of(folder / place, "train")]
    held_out = in_memory.metrics_of(folder / place, "validation")
    return {
        "network": name,
        "seed": seed,
        "diverged": state is None,
        "signals": initial_signals(dataset, values["model"], CROP),
        "losses": [round(loss, 4) for loss in losses],
        "errors": [round(line["top1_error"], 5) for line in held_out],
    }


def draw(results, folder):
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


def main():
    parser = experiment.parser(__doc__, quick="both ends, some steps")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    check()
    dataset = arrays.digits(SIZE)
    chosen, epochs = list(networks()), EPOCHS
    if given.quick:
        chosen, epochs, given.seeds = chosen[:2], 0.1, 1
        for _, values in chosen:
            values["model"]["hidden"] = (16, 16)
    path = given.output / "initialisation.jsonl"
    results, table = [], {}
    for seed in range(given.seeds):
        for name, values in chosen:
            progress.say(f"{name}, seed {seed}")
            result = train(dataset, name, values, seed, epochs, given.runs)
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
