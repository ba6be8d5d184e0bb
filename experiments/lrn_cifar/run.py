"""Does local response normalisation lower the test error on CIFAR-10 (section 3.3)?

Networks with and without normalisation, with random 24x24 crops and flips, and a
learning rate that drops at the end:

- `four_layers` and `four_layers_norm`, with the paper's momentum and weight decay;
- `cifar_13pct` and `cifar_11pct`, the 2012 code's own, with locally connected layers,
  as `configs/cifar10.py` has them.

    python experiments/lrn_cifar/run.py --data=CIFAR --runs=FOLDER --output=FOLDER
        [--networks NAME ...] [--epochs=N] [--seeds=N] [--quick]

CIFAR is a prepared data set of 32x32, or a file by `arrays.py`. FOLDER of
`--runs` keeps every run, and the same command resumes it. `--quick` shows that it
works: an epoch on scanned digits.
"""

import argparse
import sys
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

from alexnet_jax import load_config, preset_config
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.runs.setup import build_setup
from alexnet_jax.runtime import cli, progress

import arrays
import harness


BATCH, CROP, RATE = 128, 24, 0.01
NETWORKS = ("four_layers", "four_layers_norm", "cifar_13pct", "cifar_11pct")
# The keys that distinguish the lines of the results.
IDENTITY = ("network", "seed", "epochs")


def train(
    dataset: Dataset, name: str, seed: int, given: argparse.Namespace
) -> dict[str, Any]:
    """One run's errors after every epoch."""
    if name.startswith("four_layers"):
        config = preset_config(name)
        config.optimizer.weight_decay = 0.0005
        config.schedule.update({"kind": "steps", "learning_rate": RATE})
        drops = (4 / 5,)
    else:
        config = load_config("cifar10", name)
        drops = [epoch / config.train.epochs for epoch in config.schedule.epochs]
    # Digits mean something else mirrored.
    config.data.update({"crop": CROP, "flip": not given.quick})
    config.schedule.epochs = tuple(part * given.epochs for part in drops)
    config.train.update({"batch_size": BATCH, "epochs": given.epochs, "seed": seed})
    config.checkpoint.update(experiment.LATEST_ONLY)
    workdir = given.runs / f"{name}-{given.epochs:g}-{seed}"
    ended = experiment.fit(build_setup(config, dataset), workdir)
    lines = experiment.metrics_of(workdir, "validation")
    return {
        "network": name,
        "seed": seed,
        "epochs": given.epochs,
        "test_errors": [round(line["top1_error"], 5) for line in lines],
        "diverged": ended is None,
    }


def main() -> None:
    parser = experiment.parser(__doc__, data="CIFAR", quick="an epoch on digits")
    add = parser.add_argument
    add("--networks", nargs="+", default=NETWORKS[:2], choices=NETWORKS)
    add("--epochs", type=float, default=20.0)
    add("--seeds", type=int, default=2)
    given = parser.parse_args()
    if given.quick:
        given.epochs, given.seeds = 1.0, 1
    dataset = arrays.chosen(given, parser, quick_size=32)
    path = given.output / "lrn_cifar.jsonl"
    table: dict[str, list[float | None]] = {name: [] for name in given.networks}
    machine = harness.machine("jax", "flax", "optax")
    for seed in range(given.seeds):
        for name in given.networks:
            progress.say(f"{name}, seed {seed}")
            result = train(dataset, name, seed, given)
            last = None if result["diverged"] else result["test_errors"][-1]
            table[name].append(last)
            experiment.keep(path, {**result, **machine}, *IDENTITY)
    done = {"experiment": "lrn_cifar", "last_test_errors": table}
    progress.print_result(done)


if __name__ == "__main__":
    cli.run_command(main)
