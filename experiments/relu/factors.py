"""How many times as many epochs as ReLU does tanh need (figure 1)? From relu.jsonl.

    python experiments/relu/factors.py --output=FOLDER

Each at the best of the learning rates with which all its seeds came to the target.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import numpy as np
from scipy import stats

from alexnet_jax.runtime import cli, progress


def epochs(results: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Epochs to the target, by seed, with the best learning rate."""
    by_rate: dict[float, dict[int, float | None]] = defaultdict(dict)
    for line in results:
        by_rate[line["rate"]][line["seed"]] = line["epochs_to_target"]
    reached = [
        {seed: taken for seed, taken in by_seed.items() if taken is not None}
        for by_seed in by_rate.values()
        if None not in by_seed.values()
    ]
    return min(reached, key=lambda each: np.mean([*each.values()]), default={})


def factors(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each network the ratio of the epochs, seed by seed: its mean, and Student's
    interval of 95 % around it."""
    chosen = [line for line in results if line.get("chosen")]
    found = {}
    for pixels in dict.fromkeys(line["pixels"] for line in chosen):
        tanh, relu = (
            epochs([x for x in chosen if (x["pixels"], x["activation"]) == (pixels, a)])
            for a in ("tanh", "relu")
        )
        seeds = sorted(tanh.keys() & relu.keys())
        if len(seeds) < 2:
            continue
        ratios = np.array([tanh[seed] / relu[seed] for seed in seeds])
        half = stats.t.ppf(0.975, len(seeds) - 1) * stats.sem(ratios)
        found[pixels] = {
            "seeds": len(seeds),
            "by_seed": ratios.round(2).tolist(),
            "mean": round(float(ratios.mean()), 3),
            "interval": [round(float(ratios.mean() + s * half), 3) for s in (-1, 1)],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    results = experiment.kept(parser.parse_args().output / "relu.jsonl")
    progress.print_result({"experiment": "relu/factors", **factors(results)})


if __name__ == "__main__":
    cli.run_command(main)
