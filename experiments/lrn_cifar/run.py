"""Does local response normalisation lower the test error on CIFAR-10 (section 3.3)?

The four-layer network (the preset `four_layers`) with and without normalisation after
its first two poolings, with random 24x24 crops and flips, the paper's momentum and
weight decay, and a learning rate that drops once at the end.

    python experiments/lrn_cifar/run.py --data=CIFAR --runs=FOLDER --output=FOLDER
                                        [--epochs=N] [--seeds=N] [--quick]

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

from alexnet_jax import preset_config
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.runs.setup import build_setup
from alexnet_jax.runtime import cli, progress

import arrays
import harness


BATCH, CROP, RATE = 128, 24, 0.01
NETWORKS = ("four_layers", "four_layers_norm")
# The keys that distinguish the lines of the results.
IDENTITY = ("network", "seed", "epochs")


def train(
    dataset: Dataset, name: str, seed: int, given: argparse.Namespace
) -> dict[str, Any]:
    """One run's errors after every epoch."""
    config = preset_config(name)
    # Digits mean something else mirrored.
    config.data.update({"crop": CROP, "flip": not given.quick})
    config.optimizer.weight_decay = 0.0005
    drop = given.epochs * 4 / 5
    config.schedule.update({"kind": "steps", "epochs": (drop,), "learning_rate": RATE})
    config.train.update({"batch_size": BATCH, "epochs": given.epochs, "seed": seed})
    config.checkpoint.update(experiment.LATEST_ONLY)
    workdir = given.runs / f"{name}-{given.epochs:g}-{seed}"
    experiment.fit(build_setup(config, dataset), workdir)
    lines = experiment.metrics_of(workdir, "validation")
    return {
        "network": name,
        "seed": seed,
        "epochs": given.epochs,
        "test_errors": [round(line["top1_error"], 5) for line in lines],
    }


def main() -> None:
    parser = experiment.parser(__doc__, data="CIFAR", quick="an epoch on digits")
    parser.add_argument("--epochs", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    if given.quick:
        given.epochs, given.seeds = 1.0, 1
    dataset = arrays.chosen(given, parser, quick_size=32)
    path = given.output / "lrn_cifar.jsonl"
    table: dict[str, list[float]] = {name: [] for name in NETWORKS}
    machine = harness.machine("jax", "flax", "optax")
    for seed in range(given.seeds):
        for name in NETWORKS:
            progress.say(f"{name}, seed {seed}")
            result = train(dataset, name, seed, given)
            table[name].append(result["test_errors"][-1])
            experiment.keep(path, {**result, **machine}, *IDENTITY)
    done = {"experiment": "lrn_cifar", "last_test_errors": table}
    progress.print_result(done)


if __name__ == "__main__":
    cli.run_command(main)
