"""Does local response normalisation lower the test error on CIFAR-10 (section 3.3)?

The four-layer network (`four_layers` in `configs/preset_values.py`) with and without
normalisation after its first two poolings, with random 24x24 crops and mirror images,
the paper's momentum and decay, and a rate that drops once at the end.

    python experiments/lrn_cifar/run.py --data=CIFAR --runs=FOLDER --output=FOLDER
                                        [--epochs=N] [--seeds=N] [--quick]

CIFAR is a prepared data set of 32x32, or a file by `arrays.save_arrays`. FOLDER of
`--runs` keeps every run, and the same command goes on where it stood. `--quick` shows
that it works: an epoch on scanned digits.
"""

import argparse
import json
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]
sys.path[:0] = [
    str(ROOT),
    str(ROOT / "configs"),
    str(ROOT / "experiments"),
    str(ROOT / "experiments" / "benchmarks"),
]

from preset_values import merged

from alexnet_jax import errors, progress

import arrays
import harness
import in_memory


BATCH, CROP, RATE = 128, 24, 0.01
NETWORKS = ("four_layers", "four_layers_norm")


def train(dataset, name, seed, given):
    """One run's errors after every epoch."""
    values = merged(name)
    values["optimizer"]["weight_decay"] = 0.0005
    drop = given.epochs * 4 / 5
    values["schedule"].update(kind="steps", epochs=(drop,), learning_rate=RATE)
    workdir = given.runs / f"{name}-{given.epochs:g}-{seed}"
    in_memory.fit(
        workdir,
        dataset,
        values,
        batch_size=BATCH,
        epochs=given.epochs,
        seed=seed,
        crop=CROP,
        crops=True,
        flip=not given.quick,
    )
    lines = in_memory.metrics_of(workdir, "validation")
    return {
        "network": name,
        "seed": seed,
        "epochs": given.epochs,
        "test_errors": [round(line["top1_error"], 5) for line in lines],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="CIFAR", help="needed without --quick")
    add("--runs", type=Path, required=True, metavar="FOLDER")
    add("--output", type=Path, required=True, metavar="FOLDER")
    add("--epochs", type=float, default=20.0)
    add("--seeds", type=int, default=2)
    add("--quick", action="store_true", help="an epoch on digits")
    given = parser.parse_args()
    if given.quick:
        given.epochs, given.seeds = 1.0, 1
        dataset = arrays.digits(32)
    elif given.data is None:
        parser.error("give --data=CIFAR, or --quick")
    else:
        dataset = arrays.open_data(given.data)
    given.output.mkdir(parents=True, exist_ok=True)
    table = {name: [] for name in NETWORKS}
    with (given.output / "lrn_cifar.jsonl").open("w") as file:
        for seed in range(given.seeds):
            for name in NETWORKS:
                progress.say(f"{name}, seed {seed}")
                result = train(dataset, name, seed, given)
                table[name].append(result["test_errors"][-1])
                file.write(json.dumps(result) + "\n")
                file.flush()
        done = {
            "experiment": "lrn_cifar",
            "last_test_errors": table,
            **harness.machine("jax", "flax", "optax"),
        }
        file.write(json.dumps(done) + "\n")
    progress.print_result(done)


if __name__ == "__main__":
    errors.exit_with(main)
