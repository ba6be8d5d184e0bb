"""The folder of checkpoints: which are there, their validations, how they leave it.

    checkpoints/500/                  a checkpoint
    checkpoints/500.saving            is written, and not yet on the disk and read back
    checkpoints/500/files.json        its files, with which it was read back
    checkpoints/500/validation.json   loss and errors of the validation at its step
    checkpoints/400.deleted           on its way to be deleted
    damaged/300                       does not match its checksums, kept for the user

A checkpoint gets its name last and loses it first, so that neither a crash nor a power
cut ever leaves a partial one. Only the main process of the run that owns the folder
changes it.
"""

import contextlib
import functools
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.checkpoint.orbax_errors import writable
from alexnet_jax.runtime import atomic, listing, progress
from alexnet_jax.runtime.errors import InputError, first_line


DAMAGED, DELETED, SAVING = "damaged", ".deleted", ".saving"
VALIDATION_FILE = "validation.json"
# What it is called before it has its name, by Orbax while that writes it.
_INCOMPLETE = re.compile(r"\d+\.saving|\d+(\.saving)?\.orbax-checkpoint-tmp.*")


def steps_in(directory: Path) -> list[int]:
    """The steps of the complete checkpoints, rising."""
    if not listing.is_folder(directory):
        return []
    return sorted(
        int(path.name)
        for path in directory.iterdir()
        if re.fullmatch("[0-9]+", path.name) and listing.is_folder(path)
    )


def tidy(directory: Path) -> None:
    """Delete what a crash left: saves that never completed, and half-deleted ones."""
    with writable(directory):
        atomic.make_folder(directory)
        found = [*directory.iterdir()]
    for path in found:
        if path.name.endswith(DELETED) or _INCOMPLETE.fullmatch(path.name):
            _remove(path)


def being_saved(step: int) -> str:
    """The name of a checkpoint that is not yet saved."""
    return f"{step}{SAVING}"


def commit(directory: Path, step: int) -> None:
    """Give a checkpoint its name; on return a power cut does not lose it."""
    with writable(directory):
        (directory / being_saved(step)).rename(directory / str(step))
        atomic.sync(directory)


def superseded(
    known: Mapping[int, float | None], latest: int, best: int, every: int
) -> list[int]:
    """The steps that need not stay, rising.

    Args:
      known: the steps that there are, each with its validation error.
      latest: how many of the latest stay.
      best: how many with the lowest error stay; of equals the latest.
      every: those of every so many steps stay; 0 for none.
    """
    validated = sorted((e, -step) for step, e in known.items() if e is not None)
    stay = {*sorted(known)[-latest:], *(-negative for _, negative in validated[:best])}
    if every:
        stay |= {step for step in known if step % every == 0}
    return sorted(set(known) - stay)


def delete(directory: Path, steps: Iterable[int]) -> None:
    """Delete checkpoints: first their names, then their files.

    What can't be deleted now, such as a file that a reader holds open on NFS, is no
    error: it is tried again with the next call and at the next start.
    """
    for step in steps:
        path = directory / str(step)
        try:
            path.rename(_free(directory, str(step), DELETED))
        except OSError as error:
            _warn(path, error.strerror or first_line(error))
    with contextlib.suppress(OSError):
        for path in sorted(directory.iterdir()):
            if path.name.endswith(DELETED):
                _remove(path)


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        _warn(path, error.strerror or first_line(error))


# Once for each path.
@functools.cache
def _warn(path: Path, reason: str) -> None:
    progress.say(f"warning: {path} can't be deleted yet ({reason}); tried again later")


def move_aside(
    directory: Path, damaged: Mapping[int, InputError], *, ending: str = ""
) -> None:
    """Move damaged checkpoints into a folder beside the directory, with a warning."""
    folder = directory.parent / DAMAGED
    for step, why in damaged.items():
        progress.say(f"warning: {why}; it is moved to {folder}")
        with writable(directory):
            folder.mkdir(exist_ok=True)
            (directory / f"{step}{ending}").rename(_free(folder, str(step)))


def _free(folder: Path, name: str, ending: str = "") -> Path:
    """A path in a folder that is not taken: the name, or the name and a number."""
    path, number = folder / f"{name}{ending}", 1
    while path.exists():
        path = folder / f"{name}-{(number := number + 1)}{ending}"
    return path


def write_validation(checkpoint: Path, errors: Mapping[str, float]) -> None:
    """Write a validation's loss and errors into the checkpoint of its step."""
    write_note(checkpoint / VALIDATION_FILE, errors)


def read_validation(checkpoint: Path) -> dict[str, float]:
    """The validation's loss and errors.

    Empty where there was no validation yet, or its note is damaged: the run then
    validates again, with the same result.
    """
    note = read_note(checkpoint / VALIDATION_FILE)
    with contextlib.suppress(ValueError, TypeError):
        if "top1_error" in note:
            return {name: float(value) for name, value in note.items()}
    return {}


def write_note(path: Path, content: Mapping[str, object]) -> None:
    """Write a small JSON file with a checksum into a checkpoint."""
    with writable(path.parent):
        atomic.write_json(path, {**content, "sha256": _checksum(content)})


def read_note(path: Path) -> dict[str, Any]:
    """What `write_note` wrote; empty where there is none, or it is damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        note = json.loads(path.read_bytes())
        checksum = note.pop("sha256")
        if checksum == _checksum(note):
            return note
    return {}


def _checksum(content: Mapping[str, object]) -> str:
    text = json.dumps(dict(content), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
