"""Shared by the benchmarks: sides in turn, medians with their spread, raw results."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import stats


ROOT = Path(__file__).parents[2]
# What makes the two-tower network tiny, where it is not the network that is measured.
TINY_ROWS = {
    "conv1": {"channels": 8},
    "conv2": {"channels": 12},
    "conv3": {"channels": 8},
    "conv4": {"channels": 12},
    "conv5": {"channels": 8},
    "fc6": {"width": 16},
    "fc7": {"width": 12},
}
TINY_FLAGS = tuple(
    f"--config.model.layers.{layer}.{key}={value}"
    for layer, row in TINY_ROWS.items()
    for key, value in row.items()
)


def in_turn(sides, rounds):
    """Call every side once a round, and give each round's figures.

    Every other round goes backwards, so that no side is always the first.

    Args:
      sides: functions without arguments that measure and return a speed.
      rounds: how many.
    """
    measured = []
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        measured.append({name: sides[name]() for name in order})
        shown = {name: round(rate, 1) for name, rate in measured[-1].items()}
        print(f"round {number + 1}/{rounds}: {json.dumps(shown)}", file=sys.stderr)
    return measured


def medians(measured):
    return {
        name: statistics.median(entry[name] for entry in measured)
        for name in measured[0]
    }


def ratio(measured, ours, peer, factor=1.0):
    """Ours over `factor` times a peer, round by round: median, smallest, largest, and
    where there are several rounds a 95 % interval of the median (bootstrap over them).
    """
    ratios = [entry[ours] / (factor * entry[peer]) for entry in measured]
    found = {
        "median": statistics.median(ratios),
        "smallest": min(ratios),
        "largest": max(ratios),
    }
    if len(set(ratios)) > 1:
        sampled = stats.bootstrap((ratios,), np.median, method="percentile", rng=0)
        found["interval"] = [float(end) for end in sampled.confidence_interval]
    return found


def machine(*packages):
    """Hardware, versions and commit."""
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "commit": subprocess.run(
            described, capture_output=True, text=True
        ).stdout.strip(),
    }


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":")[1].strip() for line in lines if "model name" in line
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write(result, output):
    """Print the result as one line, and write it to `output`/NAME.json."""
    text = json.dumps(result)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / f"{result['benchmark']}.json").write_text(text + "\n")
    print(text)
