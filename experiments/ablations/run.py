"""What does each of the paper's ideas add? Each is removed alone.

    python experiments/ablations/run.py --runs=FOLDER --output=FOLDER
        [--ablations NAME ...] [--seeds 0 1 2] [--config=configs/quickstart.py]
        [--config.SECTION.KEY=VALUE ...] [--quick]

Trains the config's variants of these names, and the network itself, with every seed,
and evaluates each last checkpoint with ten crops (five where flipped images mean
something else). Any config whose variants have these names works, on any data:
`--config=configs/imagenet.py --config.data.path=PREPARED`.

FOLDER of `--runs` keeps the runs, and the same command resumes them, or adds other
names and seeds: what is already in the results is not measured again. `--quick` shows
that it works: one ablation, some steps.
"""

import hashlib
import json
import statistics
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

from alexnet_jax.nn.presets import ABLATIONS
from alexnet_jax.runtime import atomic, cli, progress
from alexnet_jax.runtime.errors import InputError

import harness
from commands import command, quick
from published import PUBLISHED


WHOLE = "code2012"


def train(name, seed, given, overrides):
    """One run's errors, trained as far as it has to be."""
    # Of other overrides it is another run, also where a resume might change them.
    text = "".join(f" {override}" for override in overrides)
    other = f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if text else ""
    workdir = given.runs / f"{Path(given.config).stem}-{name}-{seed}{other}"
    command(
        "main",
        f"--config={given.config}:{name}",
        f"--workdir={workdir}",
        f"--config.train.seed={seed}",
        *(quick(name) if given.quick else overrides),
    )
    result = command(
        "evaluate", f"--workdir={workdir}", "--checkpoint=latest", "--views=10"
    )
    kept = ("examples", "views", "loss", "top1_error", "top5_error")
    return {
        **{key: result[key] for key in kept},
        **harness.machine("jax", "flax", "optax"),
    }


def table(results):
    """Each network's mean error with its spread, and by how much it is worse, in
    points: the mean over seeds of the difference from the whole network's same seed."""
    whole = {r["seed"]: r["top1_error"] for r in results if r["network"] == WHOLE}
    rows = {}
    for name in dict.fromkeys(result["network"] for result in results):
        own = {r["seed"]: r["top1_error"] for r in results if r["network"] == name}
        worse = [100 * (e - whole[seed]) for seed, e in own.items() if seed in whole]
        rows[name] = {
            "seeds": len(own),
            "top1_error": round(statistics.mean(own.values()), 5),
            "smallest": min(own.values()),
            "largest": max(own.values()),
            "worse_by": round(statistics.mean(worse), 3) if worse else None,
            "worse_by_each": [round(points, 3) for points in worse],
            "published": PUBLISHED.get(name),
        }
    return rows


def main():
    parser = experiment.parser(__doc__, quick="one of them, some steps")
    add = parser.add_argument
    add("--ablations", nargs="*", default=list(ABLATIONS), metavar="NAME")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--config", default="configs/quickstart.py")
    given, overrides = parser.parse_known_args()
    if wrong := [text for text in overrides if not text.startswith("--config.")]:
        parser.error(f"unknown {' '.join(wrong)}")
    if given.quick:
        given.ablations, given.seeds = given.ablations[:1], [0]
        # In the results, so that none is taken for a whole run's.
        overrides = ["--quick"]
    if unknown := [name for name in given.ablations if name not in ABLATIONS]:
        raise InputError(
            f"no ablation {', '.join(unknown)}; choose from {', '.join(ABLATIONS)}"
        )
    path = given.output / "ablations.jsonl"
    what = {"config": given.config, "overrides": overrides}
    for seed in given.seeds:
        for name in (WHOLE, *given.ablations):
            asked = {**what, "network": name, "seed": seed}
            if not any(asked.items() <= line.items() for line in experiment.kept(path)):
                progress.say(f"{name}, seed {seed}")
                experiment.keep(
                    path, {**asked, **train(name, seed, given, overrides)}, *asked
                )
    results = [line for line in experiment.kept(path) if what.items() <= line.items()]
    done = {"experiment": "ablations", **what, "table": table(results)}
    atomic.replace(given.output / "ablations.json", json.dumps(done, indent=2) + "\n")
    progress.print_result(done)


if __name__ == "__main__":
    cli.run_command(main)
