"""A1: does a network learn on this device as in float32, in XLA and with fused kernels?

Each layer's update of one step in bfloat16 against float32 at highest precision on the
CPU, three starts; the loss on one fixed batch of 128 random images, 400 steps; the
quickstart to its end, three seeds, in float32 and bfloat16.

Results are lines of OUT/a1.jsonl. What stands there is not measured again, so that the
same command goes on where it was cut. `--dry` runs everything in small on any device.
"""

import functools
import sys
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
def update(dry: bool, dtype: str, kind: str, seed: int, on: str = "") -> PyTree:
    """What the first step changes of each parameter, on the host."""
    steps = stepper(dry, dtype, kind, on)
    state = steps.start(seed)
    before = jax.device_get(state.params)
    after, _ = steps.next(state)
    return jax.tree.map(np.subtract, jax.device_get(after.params), before)


def updates(dry: bool, dtype: str, kind: str, seed: int) -> dict[str, float]:
    """By layer, how far one step's update is from float32 on the CPU."""
    ours = update(dry, dtype, kind, seed)
    exact = update(dry, "float32", "xla", seed, "cpu")
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


def quickstart(folder: Path, dry: bool, dtype: str, seed: int) -> dict[str, object]:
    """The quickstart's last validation."""
    changes = {"model.dtype": dtype, "train.seed": seed}
    shorter = quick("code2012") if dry else []
    result = command(
        "main",
        "--config=quickstart",
        f"--workdir={folder / f'quickstart-{dtype}-{seed}'}",
        *(f"--config.{key}={value}" for key, value in changes.items()),
        *shorter,
    )
    return {key: result[key] for key in ("step", "loss", "top1_error")}


def pieces_of(dry: bool, output: Path) -> list[Piece]:
    """The part's pieces."""
    seeds = SEEDS[:1] if dry else SEEDS
    found = []

    def add(what: str, measure, *arguments: object) -> None:
        names = dict(zip(("dtype", "implementation"), arguments, strict=False))
        for seed in seeds:
            measured = functools.partial(measure, *arguments, seed)
            found.append(Piece({"what": what, **names, "seed": seed}, measured))

    kinds = ("xla", network.fused(dry))
    for kind in kinds:
        add("updates", functools.partial(updates, dry), "bfloat16", kind)
    for dtype, kind in (("float32", "xla"), *(("bfloat16", kind) for kind in kinds)):
        add("fixed batch", functools.partial(losses, dry), dtype, kind)
    for dtype in ("float32", "bfloat16"):
        add("quickstart", functools.partial(quickstart, output, dry), dtype)
    return found


def main() -> None:
    """The part."""
    pieces.run("a1", __doc__, pieces_of)


if __name__ == "__main__":
    cli.run_command(main)
