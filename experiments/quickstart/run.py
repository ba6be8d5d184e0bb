"""What error does the quickstart reach on held-out digits, over seeds?

Trains `configs/quickstart.py` with each seed and evaluates the last checkpoint, not the
best: so the held-out digits choose nothing.

    python experiments/quickstart/run.py --runs=FOLDER --output=FOLDER
                                         [--variant=paper] [--seeds=N] [--quick]

FOLDER of `--runs` keeps every run, and the same command resumes it. `--output` gets a
line for each run, and its metrics; lines of another variant stay.
`--quick` shows that it works: two steps.
"""

import shutil
import statistics
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

from alexnet_jax.runs.metrics_file import METRICS_FILE
from alexnet_jax.runtime import cli, progress

import harness
from commands import command, quick


def run(seed, given):
    """Train and evaluate with one seed, and give the result."""
    workdir = given.runs / f"quickstart-{given.variant}-{seed}"
    command(
        "main",
        f"--config=configs/quickstart.py:{given.variant}",
        f"--workdir={workdir}",
        f"--config.train.seed={seed}",
        *(quick(given.variant) if given.quick else ()),
    )
    result = {"variant": given.variant, "seed": seed}
    for views in (1, 10):
        measured = command(
            "evaluate",
            f"--workdir={workdir}",
            "--checkpoint=latest",
            f"--views={views}",
        )
        result[f"views_{measured['views']}"] = {
            name: measured[name] for name in ("top1_error", "loss", "examples")
        }
    metrics = given.output / f"{given.variant}-seed{seed}-metrics.jsonl"
    given.output.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(workdir / METRICS_FILE, metrics)
    return {**result, **harness.machine("jax", "flax", "optax")}


def main():
    parser = experiment.parser(__doc__, quick="two steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variant", default="code2012")
    given = parser.parse_args()
    if given.quick:
        given.seeds = 1
    results = []
    for seed in range(given.seeds):
        progress.say(f"{given.variant}, seed {seed}")
        results.append(run(seed, given))
        path = given.output / "quickstart.jsonl"
        experiment.keep(path, results[-1], "variant", "seed")
    done = {
        "experiment": "quickstart",
        "variant": given.variant,
        "top1_error": {
            views: [result[views]["top1_error"] for result in results]
            for views in ("views_1", "views_5")
        },
    }
    done["mean"] = {
        views: statistics.mean(e) for views, e in done["top1_error"].items()
    }
    progress.print_result(done)


if __name__ == "__main__":
    cli.run_command(main)
