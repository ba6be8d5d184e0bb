"""Do networks that generalise also learn random labels and shuffled pixels?

Three networks of Zhang et al. 2017, and a wide residual one, on CIFAR-10 (28x28, the
centre of 32x32, each image standardised): with true labels, with and without random
crops and weight decay; with some or all training labels replaced at random; with pixels
in another order. Not among them: the paper's Gaussian pixels, its three hidden layers,
and Inception without batch normalisation. Test errors are by the true labels.

    python experiments/generalisation/run.py --data=CIFAR --runs=FOLDER
        --output=FOLDER [--networks NAME ...] [--rows NAME ...] [--epochs=N] [--quick]

CIFAR is a prepared data set of 32x32, or a file by `arrays.py`. FOLDER of
`--runs` keeps every run, and the same command resumes it, also with more epochs. A run
ends early after three epochs without a training error. `--output` gets a file of
results for each network; rows of another command stay in it. `--quick` shows that it
works: an epoch on digits.
"""

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import jax
import numpy as np
import optax
from jax.sharding import AxisType

from alexnet_jax.checkpoint.reader import CheckpointReader
from alexnet_jax.data import statistics
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.data.sources.arrays import array_dataset
from alexnet_jax.data.sources.randomized import corrupt
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.runs.setup import Setup
from alexnet_jax.runs.workdir import CHECKPOINTS
from alexnet_jax.runtime import cli, progress
from alexnet_jax.train import train
from alexnet_jax.training.plan import make_plan

import arrays
import harness
from figures import draw
from steps import CROP, Measure, make_measure, make_steps
from zhang import NETWORKS


BATCH = 128
# The paper's appendix A. It doesn't say the weight decay; this is AlexNet's.
RATES = {"mlp": 0.01, "alexnet": 0.01, "inception": 0.1, "wide_resnet": 0.1}
RATE_DECAY = 0.95
WEIGHT_DECAY = 0.0005
EPOCHS_WITHOUT_ERROR = 3

ROWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"decay": True},
    "crop": {"crop": True},
    "crop and decay": {"crop": True, "decay": True},
    "20 % random labels": {"random_labels": 0.2},
    "40 % random labels": {"random_labels": 0.4},
    "60 % random labels": {"random_labels": 0.6},
    "80 % random labels": {"random_labels": 0.8},
    "random labels": {"random_labels": 1.0},
    "shuffled pixels": {"pixels": "shuffled"},
    "random pixels": {"pixels": "random"},
}


def cut(dataset: Dataset) -> Dataset:
    """A data set of the centres, for rows without crops: the shuffled pixels are then
    those that the network sees."""
    sources = {split: arrays.source_of(dataset, split) for split in dataset.splits}
    return array_dataset(
        {split: statistics.centre(s.images, CROP) for split, s in sources.items()},
        {split: s.labels for split, s in sources.items()},
        dataset.class_names,
    )


def corrupted(dataset: Dataset, row: str, seed: int) -> Dataset:
    """The data set of a row, in memory."""
    what = ROWS[row]
    return arrays.held(
        corrupt(
            dataset if what.get("crop") else cut(dataset),
            random_labels=what.get("random_labels", 0.0),
            pixels=what.get("pixels", "true"),
            seed=seed,
        )
    )


def set_up(
    dataset: Dataset, name: str, row: str, given: argparse.Namespace
) -> tuple[Setup, Measure]:
    """A run of a network on the data set of a row, and how it is measured."""
    dataset = corrupted(dataset, row, given.seed)
    config: dict[str, dict[str, Any]] = {
        "data": {
            "crop": CROP,
            "crops": ROWS[row].get("crop", False),
            "flip": False,
            "subtract_mean": False,
        },
        "train": {"batch_size": BATCH, "epochs": given.epochs, "seed": given.seed},
        "checkpoint": experiment.LATEST_ONLY,
    }
    pipeline = pipelines.Pipeline(dataset, **config["data"])
    examples = len(dataset.splits["train"])
    plan = make_plan(examples=examples, **config["train"])
    # The compiler says what lies where: these networks have no towers.
    mesh = jax.make_mesh(
        (1, 1),
        (meshes.DATA, meshes.TOWER),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=jax.devices()[:1],
    )
    network = NETWORKS[name](num_classes=len(dataset.class_names))
    per_epoch = plan.steps_per_epoch
    rate = optax.exponential_decay(RATES[name], round(per_epoch), RATE_DECAY, 0, True)
    decay = WEIGHT_DECAY if ROWS[row].get("decay") else 0.0
    measure = make_measure(network, pipeline, mesh)
    setup = Setup(
        config={**config, "experiment": {"network": name, "row": row}},
        mesh=mesh,
        pipeline=pipeline,
        model=network,
        steps=make_steps(network, mesh, rate=rate, decay=decay, seed=given.seed),
        plan=plan,
        validate=lambda state, mean, check: measure(state, "validation", check),
        checkpoint=config["checkpoint"],
        enough=lambda workdir: learned(workdir, per_epoch),
    )
    return setup, measure


def run(
    dataset: Dataset, name: str, row: str, given: argparse.Namespace
) -> dict[str, Any]:
    """Train one network on one row to the end, and give the result."""
    setup, measure = set_up(dataset, name, row, given)
    workdir = given.runs / f"{name}-{row}-{given.seed}".replace(" ", "_")
    train(setup, workdir)
    checkpoints = CheckpointReader(workdir / CHECKPOINTS)
    state = checkpoints.restore(checkpoints.find("latest"), setup.steps.abstract)
    plan = setup.plan
    parameters = sum(array.size for array in jax.tree.leaves(state.params["params"]))
    return {
        "network": name,
        "row": row,
        "seed": given.seed,
        "parameters": parameters,
        "parameters_per_example": round(parameters / plan.examples, 1),
        "epochs": round(int(state.step) / plan.steps_per_epoch, 2),
        "finished": learned(workdir, plan.steps_per_epoch),
        "train": measure(state, "train"),
        "test": measure(state, "validation"),
        "curve": curve(workdir, plan.steps_per_epoch),
        **harness.machine("jax", "flax", "optax"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def curve(workdir: Path, per_epoch: float) -> list[list[float]]:
    """For each epoch the mean loss and error of learning, and those of the test."""
    epochs: dict[int, list[tuple[float, float]]] = {}
    for line in experiment.metrics_of(workdir, "train"):
        place = math.ceil(line["step"] / per_epoch)
        epochs.setdefault(place, []).append((line["loss"], line["top1_error"]))
    rows: dict[int, list[float]] = {}
    for line in experiment.metrics_of(workdir, "validation"):
        # A run that was extended later may end a step before the end of its epoch.
        epoch = max(1, round(line["step"] / per_epoch))
        of_test = line["loss"], line["top1_error"]
        numbers = (*np.mean(epochs[epoch], axis=0), *of_test)
        rows[epoch] = [epoch, *(round(float(number), 5) for number in numbers)]
    return list(rows.values())


def learned(workdir: Path, per_epoch: float) -> bool:
    """Whether the last epochs' learning was without an error."""
    steps = round(EPOCHS_WITHOUT_ERROR * per_epoch)
    last = experiment.metrics_of(workdir, "train")[-steps:]
    return len(last) == steps and not any(line["top1_error"] for line in last)


def main() -> None:
    parser = experiment.parser(__doc__, data="CIFAR", quick="an epoch on digits")
    add = parser.add_argument
    add("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    add("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    add("--epochs", type=float, default=100.0)
    add("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.quick:
        given.epochs = 1.0
    dataset = arrays.chosen(given, parser, quick_size=32)
    table = {}
    for name in given.networks:
        for row in given.rows:
            progress.say(f"{name}: {row}")
            result = run(dataset, name, row, given)
            path = given.output / f"{name}.jsonl"
            experiment.keep(path, result, "network", "row", "seed")
            table[f"{name}: {row}"] = {
                "epochs": result["epochs"],
                "train_error": result["train"]["top1_error"],
                "test_error": result["test"]["top1_error"],
            }
    draw(given.output)
    progress.print_result({"experiment": "generalisation", "table": table})


if __name__ == "__main__":
    cli.run_command(main)
