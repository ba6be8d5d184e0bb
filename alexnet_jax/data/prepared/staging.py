"""The folder beside the output in which a preparation works until it is finished.

job.json      the options that the bytes hang on
set/          the shards, which become the output
notes/        what is known of finished shards
refused.txt   pictures that can't be prepared
lock          held by the process that prepares
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet_jax.data.prepared import shard_writer
from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.lock import LOCK_FILE, locked


JOB_FILE, REFUSED_FILE = "job.json", "refused.txt"
SET_FOLDER, NOTES_FOLDER = "set", "notes"


@contextlib.contextmanager
def unfinished_work(
    unfinished: Path, output: Path, job: dict[str, Any]
) -> Iterator[None]:
    """Make the folder for unfinished work, and hold it alone.

    What a job with the same options left in it stays; what another left goes.

    Args:
      unfinished: the folder.
      output: the place of the finished set, for messages.
      job: the options that the bytes hang on.

    Raises:
      InputError: if another process holds it, or it has files of somebody else.
    """
    unfinished.mkdir(parents=True, exist_ok=True)
    with locked(unfinished, f"{output} is being prepared"):
        _resume(unfinished, job)
        yield


def _resume(unfinished: Path, job: dict[str, Any]) -> None:
    """Make the folders for the work, emptied of what another job left."""
    file = unfinished / JOB_FILE
    folders = [unfinished / SET_FOLDER, unfinished / NOTES_FOLDER]
    ours = {LOCK_FILE, JOB_FILE, JOB_FILE + atomic.PART, REFUSED_FILE}
    ours |= {folder.name for folder in folders}
    if strangers := sorted({path.name for path in unfinished.iterdir()} - ours):
        raise InputError(
            f"{unfinished} is in the way and holds {strangers[0]}; move it"
        )
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        before = None
    if before != job and folders[0].exists():
        progress.say(f"{unfinished} was begun with other options; starting over")
    for folder in folders:
        if before != job:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        for left in folder.glob(f"*{atomic.PART}"):
            left.unlink()
    if before != job:
        atomic.write_json(file, job)
        shard_writer.sync(file)


def check_refused(described: dict[str, Any], on_error: str, unfinished: Path) -> None:
    """Raise an InputError where pictures were refused that must not be left out."""
    reasons = [one["reason"] for one in described["refused"]]
    empty = [split for split, count in described["counts"].items() if not count]
    if not reasons or (on_error == "skip" and not empty):
        return
    listed = unfinished / REFUSED_FILE
    listed.write_text("\n".join(reasons) + "\n", encoding="utf-8")
    first = "; ".join(reasons[:3])
    more = f" (all are listed in {listed})" if len(reasons) > 3 else ""
    which = f"no picture of split {empty[0]}" if empty else f"{len(reasons)} pictures"
    advice = "" if empty else ", or leave them out with --on_error=skip"
    raise InputError(
        f"{which} can{'' if empty else 'not'} be prepared: {first}{more}. Mend them"
        f"{advice}; what is prepared is kept"
    )
