"""Cycles that XLA estimates of a program for a TPU, by the layer that they serve."""

import re
from collections import Counter

from alexnet_jax.targets.program import Program, trip_count


Cycles = Counter[str | None]


def cycles_by_layer(program: Program) -> Cycles:
    """XLA's own estimate of each operation, added up; empty where it makes none.

    Operations that overlap are added as well. A loop counts as often as it runs, where
    the program says so; of branches the longest counts.
    """
    return _of_computation(program, program.entry)


def _of_computation(program: Program, name: str) -> Cycles:
    found: Cycles = Counter()
    for which in program.computations[name].values():
        inner = [
            _of_computation(program, called)
            for called in which.called
            if which.operation in ("while", "conditional", "call", "async-start")
        ]
        if which.operation == "conditional":
            inner = [max(inner, key=lambda cycles: cycles.total())]
        for cycles in inner:
            for layer, count in cycles.items():
                found[layer] += trip_count(which) * count
        if estimate := re.search(r'"estimated_cycles":"(\d+)"', which.text):
            found[which.layer] += int(estimate[1])
    return found
