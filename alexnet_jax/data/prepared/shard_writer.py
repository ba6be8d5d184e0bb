"""Writes the shards of a prepared data set, each in one process, and finds those that
are missing."""

import collections
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from array_record.python.array_record_module import ArrayRecordWriter

from alexnet_jax.data.dataset import check_label
from alexnet_jax.data.encoded import EncodedSource
from alexnet_jax.data.prepared import manifest, record, staging
from alexnet_jax.data.prepared.pixel_source import PixelSource
from alexnet_jax.data.statistics import PixelSums
from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.errors import Failure, InputError, first_line


class ShardTask(NamedTuple):
    """A shard to write, from the images of its source.

    Attributes:
      notes: the folder for the notes of finished shards.
      measured: whether the sums for the mean image and the colours are written.
      classes: how many there are.
    """

    path: Path
    notes: Path
    source: EncodedSource | PixelSource
    encoding: str
    measured: bool
    classes: int

    @property
    def note(self) -> Path:
        """The shard's note, which is written last: with it the shard is finished."""
        return self.notes / f"{self.path.stem}.json"

    @property
    def sums(self) -> Path:
        """The sums of the shard's images."""
        return self.notes / f"{self.path.stem}.npz"


def write_shard(task: ShardTask, advance: Callable[[int], None]) -> Path:
    """Decode, resize, encode and write a shard's images, then its note.

    Unreadable images are skipped and listed in the note. Nothing waits for the disk:
    `missing` finds what a power cut lost. `advance` is called with the number of images
    done since. Returns the shard's path.

    Raises:
      Failure: if it can't be written, or the input's drive is away.
    """
    part = task.path.with_suffix(atomic.PART)
    sums = PixelSums.zeros(task.source.size)
    repaired: collections.Counter[str] = collections.Counter()
    unreadable, places = [], []
    try:
        with atomic.removed_on_error(part):
            writer = ArrayRecordWriter(str(part), "group_size:1,uncompressed")
            for index in range(len(task.source)):
                name = task.source.name(index)
                try:
                    label, image, repairs = task.source.stored(index)
                except InputError as error:
                    unreadable.append({"name": name, "reason": str(error)})
                    places.append(index)
                else:
                    check_label(label, task.classes, partial(task.source.name, index))
                    repaired.update(repairs)
                    encoded = record.encode(image, task.encoding)
                    writer.write(record.pack(encoded, label, name))
                    if task.measured:
                        sums.add(image)
                advance(1)
            writer.close()
            part.replace(task.path)
        if task.measured:
            sums.save(task.sums)
        note = {
            "source": task.source.fingerprint(),
            "file": task.path.name,
            "examples": len(task.source) - len(unreadable),
            "bytes": task.path.stat().st_size,
            "sha256": manifest.sha256(task.path),
            "sums_sha256": manifest.sha256(task.sums) if task.measured else None,
            "repaired": repaired,
            "unreadable": unreadable,
            "unreadable_places": places,
        }
        atomic.write_json(task.note, note)
        return task.path
    except Failure:
        # Of the input's drive.
        raise
    except (OSError, RuntimeError) as error:
        # ArrayRecord raises RuntimeError, with the system's reason in its text.
        raise Failure(staging.cannot_write(task.path, first_line(error))) from error


def missing(tasks: Sequence[ShardTask], *, skip: bool) -> list[ShardTask]:
    """The shards that do not exist yet, or are damaged.

    Without `skip` those with skipped images are among them: the images may have been
    fixed since.
    """
    if not any(task.note.exists() for task in tasks):
        return list(tasks)
    left = []
    with progress.counted("checking finished shards", len(tasks)) as advance:
        for task in tasks:
            if not _finished(task, skip=skip):
                left.append(task)
            advance(1)
    return left


def _finished(task: ShardTask, *, skip: bool) -> bool:
    """Whether a shard of this source exists and matches its note's checksums."""
    try:
        note = json.loads(task.note.read_text(encoding="utf-8"))
        sums = manifest.sha256(task.sums) if task.measured else None
        return (
            (skip or not note["unreadable"])
            and len(note["unreadable_places"]) == len(note["unreadable"])
            and note["source"] == task.source.fingerprint()
            and note["sha256"] == manifest.sha256(task.path)
            and note["sums_sha256"] == sums
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
