"""Features of every checkpoint of a run: an output for each, one after the other.

Which checkpoints, and how many are finished, lies in `NAME.checkpoints.json` beside the
outputs until the last is finished.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from alexnet_jax.checkpoint.reader import CheckpointReader
from alexnet_jax.inference.extraction import Written
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError, first_line


def write_trajectory(
    workdir: Path,
    output: Path,
    job: Mapping[str, object],
    write: Callable[[int, Path], Written],
) -> dict[int, Path]:
    """Write the features of each checkpoint, or continue where this was stopped. What
    a training that goes on has removed since is named and left out.

    Args:
      workdir: of the run.
      output: `NAME.ENDING`; each checkpoint's is `NAME.STEP.ENDING`.
      job: what is being done; only the same can be continued.
      write: writes the features of a step to an output, or continues them.

    Returns:
      The outputs by step.

    Raises:
      InputError: if there is no checkpoint, an output exists, or other work was begun.
    """

    def present() -> Collection[int]:
        return CheckpointReader(workdir / workdirs.CHECKPOINTS).steps

    note = output.with_name(output.name + ".checkpoints.json")
    resumed = note.exists()
    if resumed:
        steps, finished = _read(note, job)
    else:
        steps = sorted(present())
        finished = 0
    if not steps:
        raise InputError(f"no checkpoint in {workdir}; train first")
    outputs = {s: output.with_name(f"{output.stem}.{s}{output.suffix}") for s in steps}
    if not resumed and (there := [p for p in outputs.values() if p.exists()]):
        raise InputError(f"{there[0]} exists already; choose another --output")
    for number, (step, path) in enumerate(outputs.items()):
        if number < finished:
            continue
        # Whole, if the last start ended between its last row and the note here.
        whole = resumed and number == finished and _whole(path)
        if not whole and step not in present():
            progress.say(
                f"the checkpoint of step {step} is gone, and left out; more are kept "
                "with the training's --config.train.save_steps=N and "
                "--config.checkpoint.keep_every=N"
            )
            continue
        _save(note, job, steps, number)
        progress.say(f"checkpoint of step {step}, {number + 1} of {len(steps)}: {path}")
        if not whole:
            write(step, path)
    note.unlink(missing_ok=True)
    return {step: path for step, path in outputs.items() if _whole(path)}


def _whole(path: Path) -> bool:
    """Whether an output has all of its rows."""
    return path.exists() and not path.with_name(path.name + ".progress.json").exists()


def _read(note: Path, job: Mapping[str, object]) -> tuple[list[int], int]:
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        known, steps, finished = content["job"], content["steps"], content["finished"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{note} is damaged ({first_line(error)}); choose another --output"
        ) from error
    if known != job:
        raise InputError(
            f"{note} belongs to other features; give that command again, or choose "
            "another --output"
        )
    return steps, finished


def _save(
    note: Path, job: Mapping[str, object], steps: list[int], finished: int
) -> None:
    content = {"job": dict(job), "steps": steps, "finished": finished}
    with writing(note):
        atomic.write_json(note, content)
