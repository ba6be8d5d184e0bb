"""What the notes of finished shards say together: the manifest, what can't be read."""

import collections
import json
from collections.abc import Mapping, Sequence

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.prepared.manifest import Content
from alexnet_jax.data.prepared.shard_writer import ShardTask
from alexnet_jax.data.selection import lost_classes


# Of each split, in the order of its shards.
Tasks = Mapping[str, Sequence[ShardTask]]
Notes = Mapping[str, Sequence[Content]]


def read(tasks: Tasks) -> Notes:
    """The notes of all shards."""
    return {
        split: [json.loads(task.note.read_text(encoding="utf-8")) for task in members]
        for split, members in tasks.items()
    }


def manifest_content(
    notes: Notes, dataset: Dataset, job: Mapping[str, object]
) -> Content:
    """The manifest's content without the mean image's checksum and the colours."""
    repaired: collections.Counter[str] = collections.Counter()
    unreadable = []
    for split, members in notes.items():
        for note in members:
            repaired.update(note["repaired"])
            unreadable += [{"split": split, **entry} for entry in note["unreadable"]]
    kept = ("file", "examples", "bytes", "sha256")
    return {
        **job,
        "class_names": dataset.class_names,
        "class_ids": dataset.class_ids,
        "counts": {
            split: sum(note["examples"] for note in members)
            for split, members in notes.items()
        },
        "repaired": dict(sorted(repaired.items())),
        "unreadable": unreadable,
        "left_out": dict(sorted(dataset.left_out.items())),
        "shards": {
            split: [{key: note[key] for key in kept} for note in members]
            for split, members in notes.items()
        },
    }


def lost_classes_of(notes: Sequence[Content], dataset: Dataset) -> list[str]:
    """The classes of which no training image could be prepared, by the notes of the
    training shards."""
    unreadable, start = set[int](), 0
    for note in notes:
        places = note["unreadable_places"]
        unreadable |= {start + place for place in places}
        start += note["examples"] + len(places)
    lost = lost_classes(dataset.splits["train"], unreadable)
    return [dataset.class_names[label] for label in lost]


def forget_unreadable(tasks: Tasks, notes: Notes) -> None:
    """Have the next try write the shards again in which images can't be read: they may
    be fixed by then, also where that shows in no name or length."""
    for split, members in tasks.items():
        for task, note in zip(members, notes[split], strict=True):
            if note["unreadable"]:
                task.note.unlink()
