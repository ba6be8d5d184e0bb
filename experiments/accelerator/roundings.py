"""What does bfloat16 change of one training step, and what of that is equal maxima?

    python experiments/accelerator/roundings.py --output=FOLDER [--quick]

Needs no GPU: the fused kernels are interpreted. On eight images, random ones and pieces
of photographs, from three starts, in XLA (`xla`), with the fused kernels (`fused`), and
in XLA with the gradient of a pooling window to every one of its equal maxima (`every`,
as in float32 and the 2012 code): how far the update of each layer is from that in
float32 at highest precision (`updates`), and the values of conv3 before its bias
(`conv3`; `every` has those of `xla`). `maxima`: the part of conv1's pooling windows
that have several, and how many a window has, by type.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from alexnet_jax.nn import pooling
from alexnet_jax.runtime import cli, progress
from alexnet_jax.training import device_check

import harness
import network


IMAGES, SEEDS = 8, (0, 1, 2)
KINDS = ("random", "photographs")
# By name: how it is computed, and whether every equal maximum gets the gradient.
SIDES = {"xla": ("xla", False), "fused": ("interpret", False), "every": ("xla", True)}


@contextlib.contextmanager
def every_maximum(active: bool) -> Iterator[None]:
    """Steps made meanwhile give the gradient to every equal maximum."""
    chosen = pooling.gradient_by_slices

    def gradient(x: Array, g: Array, **how: Any) -> Array:
        # In float32 each gets it, and values rounded before are as equal there.
        wide = (a.astype(np.float32) for a in (x, g))
        return chosen(*wide, **how).astype(g.dtype)

    if active:
        pooling.gradient_by_slices = gradient
    try:
        yield
    finally:
        pooling.gradient_by_slices = chosen


def updates(steps: network.Steps, seed: int) -> PyTree:
    """What the first step changes of each parameter."""
    state = steps.start(seed)
    before = jax.device_get(state.params)
    after, _ = steps.next(state)
    return jax.tree.map(np.subtract, jax.device_get(after.params), before)


def features(steps: network.Steps, seed: int, layers: tuple[str, ...]) -> PyTree:
    """Values of layers in a network that has just begun, on the host."""
    # Off the mesh, where the network runs without any.
    params, pixels, mean = jax.device_get(
        (steps.start(seed).params, steps.batch["image"], steps.mean)
    )
    images = pixels.astype(np.float32) - mean
    apply = jax.jit(steps.network.model.apply, static_argnames="layers")
    precision = "highest" if steps.network.model.dtype == "float32" else None
    with jax.default_matmul_precision(precision):
        _, found = apply({"params": params}, images, layers=layers)
    return jax.device_get(jax.tree.map(lambda a: a.astype(np.float32), found))


def maxima(
    values: Float[np.ndarray, "batch rows columns channels"],
) -> dict[str, float]:
    """Of pooling windows (three wide, two apart) whose maximum is above zero."""
    rows, columns = (side - 2 for side in values.shape[1:3])
    windows = np.stack(
        [
            values[:, row : row + rows : 2, column : column + columns : 2]
            for row in range(3)
            for column in range(3)
        ]
    )
    largest = windows.max(axis=0)
    count = (windows == largest).sum(axis=0)[largest > 0]
    return {"several": float((count > 1).mean()), "a_window": float(count.mean())}


def relative(values: np.ndarray, exact: np.ndarray) -> float:
    """How far values are from exact ones, by their norms."""
    return float(np.linalg.norm(values - exact) / np.linalg.norm(exact))


def on(steps: network.Steps, kind: str) -> network.Steps:
    """Steps on random images, or on photographs."""
    return steps.on_photographs() if kind == "photographs" else steps


def measure(quick: bool) -> Iterator[dict[str, object]]:
    """A line for each side, kind of images and start."""
    seeds = SEEDS[:1] if quick else SEEDS
    cases = [(kind, seed) for kind in KINDS for seed in seeds]
    asked = ("conv1", "conv3.linear")
    exact = network.steps(quick, "float32", "xla", IMAGES, precision="highest")
    references = {
        (kind, seed): (
            updates(on(exact, kind), seed),
            features(on(exact, kind), seed, asked),
        )
        for kind, seed in cases
    }
    for name, (implementation, every) in SIDES.items():
        with every_maximum(every):
            steps = network.steps(quick, "bfloat16", implementation, IMAGES)
        for kind, seed in cases:
            reference, values = references[kind, seed]
            checks = device_check.compare(
                updates(on(steps, kind), seed),
                reference,
                device_check.ROUNDINGS["bfloat16"],
            )
            line: dict[str, object] = {"side": name, "images": kind, "seed": seed}
            line["updates"] = {n: round(check.error, 4) for n, check in checks.items()}
            if not every:
                found = features(on(steps, kind), seed, asked)
                difference = relative(found[asked[1]], values[asked[1]])
                line["conv3"] = round(difference, 5)
                line["maxima"] = {
                    "bfloat16": maxima(found["conv1"]),
                    "float32": maxima(values["conv1"]),
                }
            progress.say(json.dumps(line))
            yield line


def main() -> None:
    """The command."""
    add = experiment.parser(__doc__, runs=False, quick="a narrow network, one start")
    given = add.parse_args()
    lines = [*measure(given.quick), harness.machine("jax")]
    given.output.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path = given.output / "roundings.jsonl"
    path.write_text(text)
    progress.print_result({"output": str(path), "lines": len(lines)})


if __name__ == "__main__":
    cli.run_command(main)
