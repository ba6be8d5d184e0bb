"""The shards of a prepared data set, each written by one process."""

import collections
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from array_record.python.array_record_module import ArrayRecordWriter

from alexnet_jax.data import images
from alexnet_jax.data.encoded import Originals
from alexnet_jax.data.prepared import manifest, record
from alexnet_jax.data.statistics import PixelSums
from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.errors import InputError, first_line


class ShardTask(NamedTuple):
    """A shard to write.

    Attributes:
      path: where to.
      notes: the folder for what is known of finished shards.
      originals: what goes into it.
      encoding: `jpeg` or `raw`.
      measured: whether the sums for mean and colours are wanted.
    """

    path: Path
    notes: Path
    originals: Originals
    encoding: str
    measured: bool

    @property
    def note(self) -> Path:
        """What was done, written last: the shard is finished where it is there."""
        return self.notes / f"{self.path.stem}.json"

    @property
    def sums(self) -> Path:
        """The sums of the shard's pictures."""
        return self.notes / f"{self.path.stem}.npz"


def write_shard(task: ShardTask, advance: Callable[[int], None]) -> Path:
    """Decode, cut, encode and write a shard's pictures, and a note of it beside.

    Pictures that can't be read are left out and named in the note. Nothing waits for
    the disk: what a power cut took is found by `missing`.

    Returns:
      The shard's path.

    Raises:
      InputError: if it can't be written.
    """
    part = task.path.with_suffix(".part")
    sums = PixelSums.zeros(task.originals.size)
    mended: collections.Counter[str] = collections.Counter()
    refused = []
    written = 0
    try:
        writer = ArrayRecordWriter(str(part), "group_size:1,uncompressed")
        for index in range(len(task.originals)):
            name = task.originals.name(index)
            try:
                where, label, data = task.originals.original(index)
                picture, how = images.decode(data, where, size=task.originals.size)
            except InputError as error:
                refused.append({"name": name, "reason": str(error)})
                advance(1)
                continue
            mended.update(how)
            encoded = record.encode(picture, task.encoding)
            writer.write(record.pack(encoded, label, name))
            written += 1
            if task.measured:
                sums.add(picture)
            advance(1)
        writer.close()
        part.replace(task.path)
        if task.measured:
            sums.save(task.sums)
        note = {
            "originals": task.originals.fingerprint(),
            "file": task.path.name,
            "examples": written,
            "bytes": task.path.stat().st_size,
            "sha256": manifest.sha256(task.path),
            "sums_sha256": manifest.sha256(task.sums) if task.measured else None,
            "mended": mended,
            "refused": refused,
        }
        atomic.write_json(task.note, note)
        return task.path
    except (OSError, RuntimeError) as error:
        # The writer's own kind is RuntimeError, with the system's reason in it.
        raise InputError(
            f"{task.path} can't be written ({first_line(error)}); mend that and "
            "give the same command again: finished shards are kept"
        ) from error


def missing(tasks: Sequence[ShardTask], *, refusals: bool) -> list[ShardTask]:
    """The shards that are not there yet, or not whole.

    Args:
      tasks: the shards.
      refusals: whether one from which pictures were left out counts as whole; if not,
        they may have been mended since.
    """
    if not any(task.note.exists() for task in tasks):
        return list(tasks)
    left = []
    with progress.counted("checking finished shards", len(tasks)) as advance:
        for task in tasks:
            if not _finished(task, refusals=refusals):
                left.append(task)
            advance(1)
    return left


def _finished(task: ShardTask, *, refusals: bool) -> bool:
    """Whether a shard of these originals is there, whole, as its note says."""
    try:
        note = json.loads(task.note.read_text(encoding="utf-8"))
        sums = manifest.sha256(task.sums) if task.measured else None
        return (
            (refusals or not note["refused"])
            and note["originals"] == task.originals.fingerprint()
            and note["sha256"] == manifest.sha256(task.path)
            and note["sums_sha256"] == sums
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def sync(path: Path) -> None:
    """Have the system bring a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
