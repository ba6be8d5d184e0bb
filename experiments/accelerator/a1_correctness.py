"""A1: does a network learn on this device as in float32, in XLA and with fused kernels?

Each layer's update of one step in bfloat16 against float32 at highest precision on the
CPU, three starts; the loss on one fixed batch of 128 random images, 400 steps; the
quickstart to its end, three seeds, in float32 and bfloat16.

Results are lines of OUT/a1.jsonl. What stands there is not measured again, so that the
same command goes on where it was cut. `--dry` runs everything in small on any device.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import jax
import numpy as np
from jaxtyping import PyTree

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import placement
from alexnet_jax.nn.presets import CODE2012
from alexnet_jax.runs import overrides
from alexnet_jax.runs.network import Network, plan_network
from alexnet_jax.runtime import cli, progress
from alexnet_jax.training import device_check
from alexnet_jax.training.step import TrainState, init_state, make_train_step

import harness
from commands import command, narrow, quick


SEEDS, BATCH, STEPS = (0, 1, 2), 128, 400
# Below it a network has begun to learn a batch of 1,000 classes.
LEARNS = 4.5


class Stepper(NamedTuple):
    """A state from a seed, a step on the one batch, and the batch's size."""

    start: Callable[[int], TrainState]
    step: Callable[[TrainState], tuple[TrainState, dict[str, jax.Array]]]
    images: int


def network(dry: bool, dtype: str, implementation: str) -> Network:
    """`code2012` as the mission trains it, or a narrow one of the quickstart."""
    changes = {"dtype": dtype, "implementation": implementation}
    if dry:
        rows = narrow(CODE2012)
        changes |= {f"layers.{key}": str(value) for key, value in rows.items()}
    arguments = [f"--config.model.{key}={value}" for key, value in changes.items()]
    name = "quickstart" if dry else "imagenet"
    return plan_network(overrides.changed_config(name, arguments))


@functools.cache
def stepper(dry: bool, dtype: str, implementation: str, on: str = "") -> Stepper:
    """Training steps on the first device, or on that of a platform. Compiled once:
    starts differ by their initial values alone."""
    ours, mesh = network(dry, dtype, implementation), meshes.one_device()
    if on:
        devices = jax.local_devices(backend=on)[:1]
        types = mesh.axis_types
        mesh = jax.make_mesh((1, 1), mesh.axis_names, axis_types=types, devices=devices)
    size, count = ours.crop, 8 if dry else BATCH
    batch = device_check.random_batch(count, size, ours.model.num_classes)
    mean = np.full((size, size, 3), 120, np.float32)
    step = make_train_step(ours.model, ours.optimizer, ours.schedule, mesh, 0)
    placed = placement.to_devices(batch, mesh)
    mean = jax.device_put(mean, placement.replicated(mesh))
    return Stepper(
        start=lambda seed: init_state(ours.model, ours.optimizer, mesh, size, seed),
        step=lambda state: step(state, placed, mean),
        images=count,
    )


@functools.cache
def update(dry: bool, dtype: str, kind: str, seed: int, on: str = "") -> PyTree:
    """What the first step changes of each parameter, on the host."""
    steps = stepper(dry, dtype, kind, on)
    state = steps.start(seed)
    before = jax.device_get(state.params)
    with jax.default_matmul_precision("highest" if on else None):
        after, _ = steps.step(state)
    return jax.tree.map(np.subtract, jax.device_get(after.params), before)


def updates(dry: bool, implementation: str, seed: int) -> dict[str, float]:
    """By layer, how far one step's update is from float32 on the CPU."""
    ours = update(dry, "bfloat16", implementation, seed)
    exact = update(dry, "float32", "xla", seed, "cpu")
    checks = device_check.compare(ours, exact, device_check.ROUNDINGS["bfloat16"])
    return {layer: check.error for layer, check in checks.items()}


def losses(dry: bool, dtype: str, implementation: str, seed: int) -> dict[str, object]:
    """The loss on one batch, step by step, and the first step at which it learns."""
    steps = stepper(dry, dtype, implementation)
    state, sums = steps.start(seed), []
    for _ in range(3 if dry else STEPS):
        state, metrics = steps.step(state)
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


def main() -> None:
    """The part."""
    parser = experiment.parser(__doc__, runs=False, quick="the same as --dry")
    parser.add_argument("--dry", action="store_true", help="all of it in small")
    given = parser.parse_args()
    dry = given.dry or given.quick
    path = given.output / "a1.jsonl"
    seeds = SEEDS[:1] if dry else SEEDS
    fused = "interpret" if dry else "fused"
    kinds = [("float32", "xla"), ("bfloat16", "xla"), ("bfloat16", fused)]
    pieces = [
        *(
            (("updates", kind, seed), lambda k=kind, s=seed: updates(dry, k, s))
            for kind in ("xla", fused)
            for seed in seeds
        ),
        *(
            (
                ("fixed batch", f"{dtype}, {kind}", seed),
                lambda d=dtype, k=kind, s=seed: losses(dry, d, k, s),
            )
            for dtype, kind in kinds
            for seed in seeds
        ),
        *(
            (
                ("quickstart", dtype, seed),
                lambda d=dtype, s=seed: quickstart(given.output, dry, d, s),
            )
            for dtype in ("float32", "bfloat16")
            for seed in seeds
        ),
    ]
    done = {
        (line["what"], line["kind"], line["seed"]) for line in experiment.kept(path)
    }
    device = jax.devices()[0].device_kind
    for name, measure in pieces:
        if name in done:
            continue
        line = dict(zip(("what", "kind", "seed"), name, strict=True))
        line |= {"device": device, "dry": dry, "result": measure()}
        experiment.keep(
            path, {**line, **harness.machine("jax")}, "what", "kind", "seed", "dry"
        )
        progress.say(f"A1 {', '.join(map(str, name))}: done")
    progress.print_result({"part": "a1", "results": str(path), "pieces": len(pieces)})


if __name__ == "__main__":
    cli.run_command(main)
