"""The staging folder, beside the output, in which a preparation works.

job.json         the options that decide the bytes, and where the input lies
set/             the shards; it becomes the output
notes/           a note of each finished shard
unreadable.txt   images that can't be prepared
lock             held by the process that prepares
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from alexnet_jax.data import image_tree
from alexnet_jax.data.prepared.manifest import Content
from alexnet_jax.runtime import atomic, clutter, progress
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.lock import LOCK_FILE, locked


JOB_FILE, UNREADABLE_FILE = "job.json", "unreadable.txt"
SET_FOLDER, NOTES_FOLDER = "set", "notes"


def staging_folder(output: Path) -> Path:
    """The staging folder of an output: on the same disk, so that it can be renamed."""
    return output.with_name(output.name + image_tree.UNFINISHED)


@contextlib.contextmanager
def hold(staging: Path, output: Path, job: dict[str, object]) -> Iterator[None]:
    """Make the staging folder, and lock it for this process; it goes at the end of a
    block that has emptied it.

    What a job with the same options left in it stays; what another job left is removed.
    `job` holds the options that decide the bytes, and where the input lies; `output` is
    for messages.

    Raises:
      InputError: if it can't be made, another process holds it, or it has files that
        are not ours.
    """
    try:
        staging.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output={output} can't be written ({error.strerror}); choose another "
            "folder"
        ) from error
    with locked(staging, f"{output} is being prepared"):
        _resume(staging, job)
        yield
    # After its lock: NFS keeps a file that is open, under another name.
    try:
        staging.rmdir()
    except OSError as error:
        progress.say(
            f"warning: {staging} is no longer needed and can't be removed "
            f"({error.strerror})"
        )


def _resume(staging: Path, job: dict[str, object]) -> None:
    """Make the folders for the work, emptied of what another job left."""
    file = staging / JOB_FILE
    folders = [staging / SET_FOLDER, staging / NOTES_FOLDER]
    ours = {LOCK_FILE, JOB_FILE, JOB_FILE + atomic.PART, UNREADABLE_FILE}
    # Up to format 2 the list of unreadable images had this name.
    ours |= {folder.name for folder in folders} | {"refused.txt"}
    for path in clutter.without(staging.iterdir()):
        if path.name not in ours:
            raise InputError(f"{staging} is in the way and holds {path.name}; move it")
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        before = None
    if before != job and folders[0].exists():
        progress.say(f"{staging} was begun with other options; starting over")
    for folder in folders:
        if before != job:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        for left in folder.glob(f"*{atomic.PART}"):
            left.unlink()
    if before != job:
        atomic.write_json(file, job)


def empty(staging: Path) -> None:
    """Remove all but the lock from the folder of a set that is published, as far as
    that is possible: on NFS a reader may hold a file open."""
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK_FILE:
            with contextlib.suppress(OSError):
                path.unlink()


def cannot_write(path: object, reason: str) -> str:
    """The message for a disk that is full or fails while a set is prepared."""
    return (
        f"{path} can't be written ({reason}); fix that and give the same command "
        "again: finished shards are kept"
    )


def check_unreadable(
    content: Content, on_error: str, staging: Path, gone: Sequence[str]
) -> None:
    """Raise an InputError where unreadable images must not be skipped, after listing
    all in the staging folder.

    `skip` for `on_error` skips them, but refuses a split without any image, and a class
    without any of training, one of `gone`.
    """
    reasons = [entry["reason"] for entry in content["unreadable"]]
    empty = [f"split {s}" for s, count in content["counts"].items() if not count]
    empty += [f"class {name}" for name in gone]
    if not reasons or (on_error == "skip" and not empty):
        return
    listed = staging / UNREADABLE_FILE
    listed.write_text("\n".join(reasons) + "\n", encoding="utf-8")
    first = "; ".join(reasons[:3])
    more = f" (all are listed in {listed})" if len(reasons) > 3 else ""
    which = progress.counting(len(reasons), "image")
    which = f"no image of {empty[0]}" if empty else which
    advice = "" if empty else ", or skip them with --on_error=skip"
    raise InputError(
        f"{which} can{'' if empty else 'not'} be prepared: {first}{more}. Fix them"
        f"{advice}; what is prepared is kept"
    )
