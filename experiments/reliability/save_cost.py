"""What does one save of the full network cost: how long does it hold up the step, and
how much work is done beside it?

    python experiments/reliability/save_cost.py --output=experiments/reliability

Nothing trains meanwhile, so that all the process does is the save's: hashing, writing,
syncing, reading back, and copying to a mirror in another folder. `blocked` is how long
`save` takes, in which no step begins; `cpu` the processor's seconds until all is done;
`seconds` the time until then. Medians of seven saves, each in a new work directory.

`rate` is what that leaves of a step's rate with a save every five minutes, if all of
the processor's seconds were taken from the step: on a CPU, and not on a GPU, whose step
the host does not compute.

`--quick` is one save of a tiny network.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import jax

from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import changed
from alexnet_jax.nn.presets import CODE2012
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.mirror import Mirror
from alexnet_jax.runtime import cli, progress
from alexnet_jax.runtime.store import Store
from alexnet_jax.training import optimizer, step
from alexnet_jax.training.schedule import make_schedule

import harness


ROUNDS, EVERY = 7, 300.0
KEYS = ("blocked", "cpu", "seconds")


def initial_state(quick: bool) -> step.TrainState:
    """Parameters, velocity and counts before the first step, on one device."""
    layers = changed(CODE2012, **harness.TINY_ROWS) if quick else CODE2012
    model = AlexNet(num_classes=1000, layers=layers)
    sgd = optimizer.momentum_sgd(make_schedule(steps_per_epoch=1))
    mesh = meshes.open_mesh(towers=2, tower=1, virtual_cpu_devices=1)
    return jax.block_until_ready(step.init_state(model, sgd, mesh, 224, seed=0))


def save(state: step.TrainState, workdir: Path, mirror: Path) -> dict[str, float]:
    """Save and mirror a state once."""
    workdir.mkdir(parents=True)
    store = Store(f"file://{mirror}", "--mirror")
    with (
        Mirror(store, workdir).following(),
        CheckpointWriter(workdir / workdirs.CHECKPOINTS) as writer,
    ):
        work, begin = time.process_time(), time.perf_counter()
        writer.save(1, state)
        blocked = time.perf_counter() - begin
        writer.wait()
    return {
        "blocked": blocked,
        "cpu": time.process_time() - work,
        "seconds": time.perf_counter() - begin,
    }


def main() -> None:
    """The command."""
    add = experiment.parser(__doc__, runs=False, quick="one save of a tiny network")
    given = add.parse_args()
    state = initial_state(given.quick)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="save_cost_") as folder:
        # The first one starts threads, and compiles what hashes.
        for number in range(2 if given.quick else ROUNDS + 1):
            place = Path(folder) / f"{number}"
            rounds.append(save(state, place / "run", place / "mirror"))
            progress.say(f"save {number}: {rounds[-1]}")
    middle = {key: statistics.median(r[key] for r in rounds[1:]) for key in KEYS}
    machine = harness.machine("jax", "orbax-checkpoint", "fsspec")
    lost = middle["blocked"] + middle["cpu"] / machine["cores"]
    result = {
        "benchmark": "save_cost",
        "unit": "seconds",
        "state_mb": round(sum(a.nbytes for a in jax.tree.leaves(state)) / 1e6, 1),
        "medians": middle,
        "rate": EVERY / (EVERY + lost),
        "rounds": rounds[1:],
        **machine,
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    cli.run_command(main)
