"""A run of `many_runs.py` in pieces: it shows its progress, is saved every few minutes
and when a signal stops it, and goes on where it was cut; on a CPU to the same bits.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.runs.save_or_stop import Requests
from alexnet_jax.runs.workdir import CHECKPOINTS
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import Interrupted
from alexnet_jax.runtime.signals import Interrupts

import experiment
import many_runs
from many_programs import Held, Program
from many_runs import Result, Trained


# A piece is about as long: the device waits for the host once in each.
SECONDS = 1.0
# Between saves. A run on a GPU is shorter: it is saved only where a signal stops it.
MINUTES = 5.0


def run(
    program: Program,
    on: Held,
    seed: int,
    name: str,
    folder: Path,
    interrupts: Interrupts,
    *,
    minutes: float = MINUTES,
) -> Result:
    """Train with a seed to the last step, from where `folder` has it, and evaluate.

    Args:
      program: what is trained, and how.
      on: the images.
      seed: of everything random.
      name: of the run, for its progress.
      folder: where it is saved; for this run of this program alone.
      interrupts: signals that ask to stop.
      minutes: between saves.

    Raises:
      Interrupted: after saving, if a signal asked to stop.
      Failure: if it can't be saved.
    """
    with CheckpointWriter(folder / CHECKPOINTS, **experiment.LATEST_ONLY) as saved:
        trained = many_runs.begin(program, seed)
        if saved.steps:
            trained = _restored(saved, trained)
            progress.say(f"{name} goes on from step {trained.step}")
        pieces = _pieces(program, on, seed, trained, name)
        requests = Requests(on.mesh, interrupts, minutes)
        try:
            for trained in pieces:
                interrupts.check()
                if requests.asked().save:
                    saved.save(trained.step, _arrays(trained))
            if saved.steps:
                # A run that takes long is not trained again if its evaluation breaks.
                saved.save(trained.step, _arrays(trained))
            return _evaluated(program, on, trained, name, interrupts)
        except Interrupted:
            saved.save(trained.step, _arrays(trained))
            # Else a save that fails would be lost behind the interruption.
            saved.wait()
            progress.say(f"{name} stops after step {trained.step}, and is saved")
            raise


def _pieces(
    program: Program, on: Held, seed: int, trained: Trained, name: str
) -> Iterator[Trained]:
    """Train to the last step, and give what there is after each piece."""
    plan, steps = program.plan, 1
    total, completed = (n * plan.batch_size for n in (plan.steps, trained.step))
    with progress.counted(name, total, completed) as advance:
        while (done := trained.step) < plan.steps:
            until, before = min(done + steps, plan.steps), trained.seconds
            trained = many_runs.train(program, on, seed, trained, until)
            if trained.seconds - before < SECONDS / 2:
                steps *= 2
            advance((until - done) * plan.batch_size)
            yield trained


def _evaluated(
    program: Program, on: Held, trained: Trained, name: str, interrupts: Interrupts
) -> Result:
    with progress.counted(f"{name}, evaluation", len(on.labels)) as advance:

        def after(images: int) -> None:
            advance(images)
            interrupts.check()

        return many_runs.evaluate(program, on, trained, after=after)


def _arrays(trained: Trained) -> PyTree:
    numbers = {"losses": trained.losses, "seconds": np.float32(trained.seconds)}
    place = trained.state.step.sharding
    return {"state": trained.state, **jax.device_put(numbers, place)}


def _restored(saved: CheckpointWriter, first: Trained) -> Trained:
    abstract = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(
            array.shape, array.dtype, sharding=array.sharding
        ),
        _arrays(first),
    )
    _, arrays = saved.restore_latest(abstract)
    losses, seconds = jax.device_get((arrays["losses"], arrays["seconds"]))
    return Trained(arrays["state"], losses, float(seconds))
