"""The folder of checkpoints: which are there, their validations, how they leave it.

    checkpoints/500/                  a checkpoint, written by Orbax under another name
                                      and renamed when it is complete
    checkpoints/500/validation.json   loss and errors of the validation at its step
    checkpoints/400.deleted           on its way to be deleted
    damaged/300                       does not match its checksums, kept for the user

A checkpoint that is deleted loses its name before its files, so that a crash never
leaves a partial one. Only the main process of the run that owns the folder changes it.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from alexnet_jax.checkpoint.orbax_errors import writable
from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.errors import InputError


DAMAGED, DELETED = "damaged", ".deleted"
VALIDATION_FILE = "validation.json"
# What Orbax calls a checkpoint before it is complete.
_INCOMPLETE = re.compile(r"\d+\.orbax-checkpoint-tmp.*")


def steps_in(directory: Path) -> list[int]:
    """The steps of the complete checkpoints, rising."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal())


def tidy(directory: Path) -> None:
    """Delete what a crash left: saves that never completed, and half-deleted ones."""
    with writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            if path.name.endswith(DELETED) or _INCOMPLETE.fullmatch(path.name):
                shutil.rmtree(path)


def delete(directory: Path, steps: Iterable[int]) -> None:
    """Delete checkpoints: first their names, then their files."""
    with writable(directory):
        nameless = [directory / f"{step}{DELETED}" for step in steps]
        for path in nameless:
            (directory / path.name.removesuffix(DELETED)).rename(path)
        for path in nameless:
            shutil.rmtree(path)


def move_aside(directory: Path, damaged: Mapping[int, InputError]) -> None:
    """Move damaged checkpoints into a folder beside the directory, with a warning."""
    folder = directory.parent / DAMAGED
    for step, why in damaged.items():
        progress.say(f"warning: {why}; it is moved to {folder}")
        with writable(directory):
            folder.mkdir(exist_ok=True)
            place, number = folder / str(step), 1
            while place.exists():
                place = folder / f"{step}-{(number := number + 1)}"
            (directory / str(step)).rename(place)


def write_validation(checkpoint: Path, errors: Mapping[str, float]) -> None:
    """Write a validation's loss and errors into the checkpoint of its step."""
    note = {**errors, "sha256": _checksum(errors)}
    with writable(checkpoint):
        atomic.write_json(checkpoint / VALIDATION_FILE, note)
        atomic.sync(checkpoint / VALIDATION_FILE)
        atomic.sync(checkpoint)


def read_validation(checkpoint: Path) -> dict[str, float]:
    """The validation's loss and errors.

    Empty where there was no validation yet, or its note is damaged: the run then
    validates again, with the same result.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        note = json.loads((checkpoint / VALIDATION_FILE).read_bytes())
        checksum = note.pop("sha256")
        if checksum == _checksum(note) and "top1_error" in note:
            return {name: float(value) for name, value in note.items()}
    return {}


def _checksum(errors: Mapping[str, float]) -> str:
    text = json.dumps(dict(errors), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
