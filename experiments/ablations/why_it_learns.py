"""Why does the 2012 code's network learn photographs, and the paper's text not so soon?

The rows of `imagenette.py` that differ in their initial kernels: before the first step
the size of the signal in every layer is measured, on training images, and drawn beside
the training losses of the runs.

    python experiments/ablations/why_it_learns.py --data=PREPARED --output=FOLDER
        [--epochs=10] [--dtype=float32] [--quick]

Reads the losses in FOLDER/imagenette.jsonl, of runs of so many epochs in this
arithmetic on these images, and writes FOLDER/why_it_learns.json and .svg. `--quick`
shows that it works, on digits, with two rows.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import jax
import numpy as np

from alexnet_jax.runs.setup import build_setup
from alexnet_jax.runtime import atomic, cli, progress

import arrays
import harness
from rows import WHOLE, config_of, maxima, protocol_of
from signals import initial_signals


# The 2012 code's network and the paper's, each with its own initial kernels of conv3 to
# conv5, and with the other's.
ROWS = (WHOLE, "initial_0.01", "paper", "paper_initial_0.03")


def measured(given: Any) -> tuple[str, dict[str, list[dict[str, Any]]]]:
    """The set, as lines of runs name it, and by row the sizes of signal and gradient in
    each layer before the first step."""
    name, found = "digits", {}
    for row in ROWS[::2] if given.quick else ROWS:
        progress.say(f"{row}: signals")
        config = config_of(row, given, [])
        digits = arrays.digits(config.data.size) if given.quick else None
        setup = build_setup(config, digits)
        found[row] = initial_signals(setup)
        if not given.quick:
            name = setup.pipeline.dataset.fingerprint[:12]
    return name, found


def draw(
    signals: Mapping[str, Sequence[Mapping[str, Any]]],
    losses: Mapping[str, Sequence[Sequence[float]]],
    path: Path,
) -> None:
    """Signal by layer, and a line for the losses of each run."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6))
    for number, (row, sizes) in enumerate(signals.items()):
        colour = f"C{number}"
        layers = [size["layer"] for size in sizes]
        ratios = [size["signal"] / max(size["constant"], 1e-12) for size in sizes]
        # Dashed, for it lies on the line of the other network with the same kernels.
        line = {"marker": "o", "linestyle": "--" if row.startswith("paper") else "-"}
        left.semilogy(layers, ratios, color=colour, label=row, **line)
        for of_run in losses.get(row, ()):
            epochs = np.arange(1, len(of_run) + 1)
            right.plot(epochs, of_run, marker=".", color=colour, linewidth=1)
    left.set_ylabel("variation between images / common part")
    left.tick_params(axis="x", rotation=45)
    left.legend()
    right.set_xlabel("epoch")
    right.set_ylabel("training loss, mean of the epoch")
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)


def main() -> None:
    parser = experiment.parser(
        __doc__, runs=False, data="PREPARED", quick="two rows, on digits"
    )
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    if given.data is None and not given.quick:
        parser.error("give --data=PREPARED, or --quick")
    name, signals = measured(given)
    protocol = {
        "set": name,
        "held_out": 0.0,
        "epochs": given.epochs,
        "dtype": given.dtype,
        "maxima": maxima(given.dtype, jax.devices()[0].platform),
        "overrides": [],
    }
    losses: dict[str, list[list[float]]] = {}
    for line in experiment.kept(given.output / "imagenette.jsonl"):
        alike = protocol.items() <= {**line, **protocol_of(line)}.items()
        if line["row"] in ROWS and alike:
            losses.setdefault(line["row"], []).append(line["train_losses"])
    if not losses:
        progress.say(f"no runs of {protocol} in {given.output}: signals alone")
    done = {
        "experiment": "ablations/why_it_learns",
        **protocol,
        "signals": signals,
        "runs": {row: len(of_row) for row, of_row in losses.items()},
        **harness.machine("jax", "jaxlib", "flax"),
    }
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / "why_it_learns.json"
    atomic.replace(path, json.dumps(done, indent=2) + "\n")
    draw(done["signals"], losses, path.with_suffix(".svg"))
    progress.print_result(done)


if __name__ == "__main__":
    cli.run_command(main)
