"""Checkpoints on their way out: names that nobody takes for one, and what kills leave.

A checkpoint that goes loses its name before its files do, so that a kill leaves none in
half. One that is saved anew stays under another name until the newer one is committed.
The functions change the disk, and are the main process's work.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.checkpoint.broken import writable
from alexnet_jax.runs.workdir import REPLACED
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


DAMAGED, DELETED = "damaged", ".deleted"


def rename(directory: Path, steps: Iterable[int], ending: str) -> None:
    """Take the names of checkpoints away."""
    with writable(directory):
        for step in steps:
            (directory / str(step)).rename(directory / f"{step}{ending}")


def drop_deleted(directory: Path) -> None:
    """Remove what has been renamed to be removed."""
    with writable(directory):
        for path in directory.glob(f"*{DELETED}"):
            shutil.rmtree(path)


def put_back(directory: Path, damaged: Mapping[str, InputError]) -> None:
    """Give what was to be replaced its name back, where no newer one is whole.

    Args:
      directory: the checkpoints.
      damaged: those known to be damaged, by name; they are moved out of the way.
    """
    for path in directory.glob(f"*{REPLACED}"):
        newer = path.with_name(path.name.removesuffix(REPLACED))
        if newer.name in damaged:
            move_aside(directory, {newer.name: damaged[newer.name]})
        if not newer.exists():
            with writable(directory):
                path.rename(newer)


def drop_replaced(directory: Path) -> None:
    """Remove what has been replaced."""
    with writable(directory):
        for path in directory.glob(f"*{REPLACED}"):
            shutil.rmtree(path)


def move_aside(directory: Path, damaged: Mapping[Any, InputError]) -> None:
    """Move damaged checkpoints, by name, into a folder beside the directory."""
    folder = directory.parent / DAMAGED
    for name, why in damaged.items():
        progress.say(f"warning: {why}; it is put into {folder}")
        with writable(directory):
            folder.mkdir(exist_ok=True)
            place, number = folder / str(name), 1
            while place.exists():
                place = folder / f"{name}-{(number := number + 1)}"
            (directory / str(name)).rename(place)
