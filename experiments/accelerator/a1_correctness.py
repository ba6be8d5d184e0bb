"""A1: does a network learn on this device as in float32, in XLA and with fused kernels?

Each layer's update of one step in bfloat16 against float32 at highest precision on the
CPU, three starts, on random images and on photographs; the loss on one fixed batch of
128 random images, 400 steps; the quickstart to its end, three seeds, in float32, and in
bfloat16 in XLA and fused.

Results are lines of OUT/a1.jsonl. What stands there is not measured again, so that the
same command goes on where it was cut. `--dry` runs everything in small on a CPU.
"""

import functools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

import pieces


# isort: split

import jax
import numpy as np
from jaxtyping import PyTree

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.runtime import cli
from alexnet_jax.training import device_check

import network
from commands import command, quick
from pieces import Piece


SEEDS, BATCH, STEPS = (0, 1, 2), 128, 400
# Below it a network has begun to learn a batch of 1,000 classes.
LEARNS = 4.5


@functools.cache
def stepper(dry: bool, dtype: str, implementation: str, on: str = "") -> network.Steps:
    """Training steps on the first device, or on that of a platform. Compiled once:
    starts differ by their initial values alone."""
    mesh, precision = meshes.one_device(), "highest" if on else None
    if on:
        devices = jax.local_devices(backend=on)[:1]
        types = mesh.axis_types
        mesh = jax.make_mesh((1, 1), mesh.axis_names, axis_types=types, devices=devices)
    images = 8 if dry else BATCH
    return network.steps(dry, dtype, implementation, images, mesh, precision=precision)


@functools.cache
def update(
    dry: bool, images: str, dtype: str, kind: str, seed: int, on: str = ""
) -> PyTree:
    """What the first step changes of each parameter, on the host."""
    steps = stepper(dry, dtype, kind, on)
    if images == "photographs":
        steps = steps.on_photographs()
    state = steps.start(seed)
    before = jax.device_get(state.params)
    after, _ = steps.next(state)
    return jax.tree.map(np.subtract, jax.device_get(after.params), before)


def updates(
    dry: bool, images: str, dtype: str, kind: str, seed: int
) -> dict[str, float]:
    """By layer, how far one step's update is from float32 on the CPU."""
    ours = update(dry, images, dtype, kind, seed)
    exact = update(dry, images, "float32", "xla", seed, "cpu")
    checks = device_check.compare(ours, exact, device_check.ROUNDINGS["bfloat16"])
    return {layer: check.error for layer, check in checks.items()}


def losses(dry: bool, dtype: str, kind: str, seed: int) -> dict[str, object]:
    """The loss on one batch, step by step, and the first step at which it learns."""
    steps = stepper(dry, dtype, kind)
    state, sums = steps.start(seed), []
    for _ in range(3 if dry else STEPS):
        state, metrics = steps.next(state)
        sums.append(metrics["loss"])
    curve = [float(loss) / steps.images for loss in jax.device_get(sums)]
    below = [step for step, loss in enumerate(curve) if loss < LEARNS]
    return {"learns": below[0] if below else None, "last": curve[-1], "curve": curve}


def quickstarts(
    folder: Path, dry: bool, dtype: str, kind: str, seeds: tuple[int, ...]
) -> dict[str, dict[str, object]]:
    """By seed, the quickstart's last validation. All at once, since most of a run's
    time goes into compiling."""

    def run(seed: int) -> dict[str, object]:
        changes = {
            "model.dtype": dtype,
            "model.implementation": kind,
            "train.seed": seed,
        }
        result = command(
            "main",
            "--no-report",
            "--config=quickstart",
            f"--workdir={folder / f'quickstart-{dtype}-{kind}-{seed}'}",
            *(f"--config.{key}={value}" for key, value in changes.items()),
            *(quick("code2012") if dry else []),
        )
        return {key: result[key] for key in ("step", "loss", "top1_error")}

    if len(seeds) == 1:
        return {str(seed): run(seed) for seed in seeds}
    with ThreadPoolExecutor() as pool:
        return dict(zip(map(str, seeds), pool.map(run, seeds), strict=True))


def pieces_of(dry: bool, output: Path) -> list[Piece]:
    """The part's pieces."""
    seeds = SEEDS[:1] if dry else SEEDS
    fused = network.fused(dry)
    kinds = [("bfloat16", fused), ("bfloat16", "xla"), ("float32", "xla")]
    found = []

    def add(what: str, dtype: str, kind: str, measure, first: float) -> None:
        """A piece for each seed; the first one compiles."""
        name = {"what": what, "dtype": dtype, "implementation": kind}
        for number, seed in enumerate(seeds):
            measured = functools.partial(measure, dtype, kind, seed)
            seconds = 6 if number else first
            found.append(Piece({**name, "seed": seed}, measured, seconds))

    for images in ("random", "photographs"):
        what = "updates" if images == "random" else "updates on photographs"
        for dtype, kind in kinds[:2]:
            # Programs are compiled, and float32's updates made, once.
            first = 10 if images != "random" else 80 if kind == fused else 40
            add(what, dtype, kind, functools.partial(updates, dry, images), first)
    # In small a program is enough: the others are those of the updates.
    for dtype, kind in kinds[1:2] if dry else kinds:
        seconds = 15 if dtype == "bfloat16" else 40
        add("fixed batch", dtype, kind, functools.partial(losses, dry), seconds)
    for dtype, kind in kinds[1:2] if dry else kinds:
        name = {"what": "quickstart", "dtype": dtype, "implementation": kind}
        measured = functools.partial(quickstarts, output, dry, dtype, kind, seeds)
        found.append(Piece(name, measured, 75))
    return found


def main() -> None:
    """The part."""
    # The quickstarts' processes need memory of the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    pieces.run("a1", __doc__, pieces_of)


if __name__ == "__main__":
    cli.run_command(main)
