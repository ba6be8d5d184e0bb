"""A1: does a network learn on this device as in float32, in XLA and with fused kernels?

Each layer's update of one step in bfloat16 against float32 at highest precision on the
CPU, three starts; the loss on one fixed batch of 128 random images, 400 steps; the
quickstart to its end, three seeds, in float32 and bfloat16.

Results are lines of OUT/a1.jsonl. What stands there is not measured again, so that the
same command goes on where it was cut. `--dry` runs everything in small on any device.
"""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import jax
import numpy as np

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import placement
from alexnet_jax.nn.presets import CODE2012
from alexnet_jax.runs import overrides
from alexnet_jax.runs.network import Network, plan_network
from alexnet_jax.runtime import cli, progress
from alexnet_jax.training import device_check
from alexnet_jax.training.step import init_state, make_train_step

import harness
from commands import command, narrow, quick


SEEDS, BATCH, STEPS = (0, 1, 2), 128, 400
# Below it a network has begun to learn a batch of 1,000 classes.
LEARNS = 4.5


def network(dry: bool, dtype: str, implementation: str) -> Network:
    """`code2012` as the mission trains it, or a narrow one of the quickstart."""
    changes = {"dtype": dtype, "implementation": implementation}
    if dry:
        rows = narrow(CODE2012)
        changes |= {f"layers.{key}": str(value) for key, value in rows.items()}
    arguments = [f"--config.model.{key}={value}" for key, value in changes.items()]
    name = "quickstart" if dry else "imagenet"
    return plan_network(overrides.changed_config(name, arguments))


def updates(dry: bool, implementation: str, seed: int) -> dict[str, float]:
    """By layer, how far one step's update is from float32 on the CPU."""
    ours, exact = (
        network(dry, "bfloat16", implementation),
        network(dry, "float32", "xla"),
    )
    classes, mesh = ours.model.num_classes, meshes.one_device()
    batch = device_check.random_batch(8 if dry else BATCH, ours.crop, classes)
    cpu = jax.make_mesh(
        (1, 1),
        mesh.axis_names,
        axis_types=mesh.axis_types,
        devices=jax.local_devices(backend="cpu")[:1],
    )
    found, right = (
        device_check.one_update(n.model, n.optimizer, n.schedule, where, batch, seed)
        for n, where in ((ours, mesh), (exact, cpu))
    )
    checks = device_check.compare(found, right, device_check.ROUNDINGS["bfloat16"])
    return {layer: check.error for layer, check in checks.items()}


def losses(dry: bool, dtype: str, implementation: str, seed: int) -> dict[str, object]:
    """The loss on one batch, step by step, and the first step at which it learns."""
    ours, mesh = network(dry, dtype, implementation), meshes.one_device()
    size, classes = ours.crop, ours.model.num_classes
    count, steps = (8, 3) if dry else (BATCH, STEPS)
    state = init_state(ours.model, ours.optimizer, mesh, size, seed)
    train = make_train_step(ours.model, ours.optimizer, ours.schedule, mesh, seed)
    batch = device_check.random_batch(count, size, classes)
    placed = placement.to_devices(batch, mesh)
    mean = np.full((size, size, 3), 120, np.float32)
    mean = jax.device_put(mean, placement.replicated(mesh))
    sums = []
    for _ in range(steps):
        state, metrics = train(state, placed, mean)
        sums.append(metrics["loss"])
    curve = [float(loss) / count for loss in jax.device_get(sums)]
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
