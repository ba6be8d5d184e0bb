"""Features of every checkpoint of a run: an output for each, one after the other.

Which checkpoints, and how many are finished, lies in `NAME.checkpoints.json` beside the
outputs until the last is finished.
"""

import json
from collections.abc import Callable, Mapping
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
    """Write the features of each checkpoint, or continue where this was stopped.

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
    note = output.with_name(output.name + ".checkpoints.json")
    resumed = note.exists()
    if resumed:
        steps, finished = _read(note, job)
    else:
        steps = sorted(CheckpointReader(workdir / workdirs.CHECKPOINTS).steps)
        finished = 0
    if not steps:
        raise InputError(f"no checkpoint in {workdir}; train first")
    outputs = {s: output.with_name(f"{output.stem}.{s}{output.suffix}") for s in steps}
    if not resumed and (there := [p for p in outputs.values() if p.exists()]):
        raise InputError(f"{there[0]} exists already; choose another --output")
    for number, (step, path) in enumerate(outputs.items()):
        if number < finished:
            continue
        _save(note, job, steps, number)
        progress.say(f"checkpoint of step {step}, {number + 1} of {len(steps)}: {path}")
        # Whole, if the last start ended between its last row and the note here.
        whole = resumed and number == finished and path.exists()
        if not whole or path.with_name(path.name + ".progress.json").exists():
            write(step, path)
    note.unlink()
    return outputs


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
