"""A classification set in WebDataset's form: tar shards, read where they lie.

A sample is the members whose names are the same up to the first dot of their last part:
`a/0001.jpg` and `a/0001.cls`. The class is a number or a text in `cls`, or in a key of
`json`; a number's name comes from a list beside the shards, or from WNIDs in the names.
"""

import dataclasses
import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.image_tree import LeftOut, cannot_read, printable
from alexnet_jax.data.sources import imagenet_classes, rows, shards, tar_index
from alexnet_jax.data.sources.rows import Rows, RowSource
from alexnet_jax.data.sources.tar_index import Member
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


IMAGES = ("jpg", "jpeg", "png", "webp")
LABEL, JSON, JSON_KEY = "cls", "json", "label"
# Lists of the classes' names, a line each, in the order of the numbers.
LISTS = ("classes.txt", "classnames.txt", "class_names.txt", "labels.txt")
# Bytes of a member that says the class, at most.
_LONGEST = 2**20
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_WNID = re.compile(r"(?:^|[/_])(n\d{8})(?=[/_.])")


class _Sample(NamedTuple):
    """A sample's image: its name, where it lies, and its class as text."""

    name: str
    offset: int
    length: int
    label: str


# The members of a sample by what follows the first dot of their names.
_Members = dict[str, Member]


@dataclasses.dataclass(frozen=True, eq=False)
class WebdatasetSource(RowSource):
    """The encoded images of one split; `place` is an image's offset and length."""

    def _read(self, path: Path, index: int, where: str) -> bytes:
        offset, length = map(int, self.rows.place[index])
        data = _bytes(path, offset, length)
        if len(data) != length:
            raise InputError(f"{where} is cut off; it has changed since it was opened")
        return data


def _bytes(path: Path, offset: int, length: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise cannot_read(path, error) from error


def open_webdataset(
    path: str | None,
    size: int,
    validation_fraction: float,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    other_classes: str = "stop",
) -> Dataset:
    """Tar shards in a folder, or of a pattern such as `shards/{000..999}.tar`.

    Raises:
      InputError: if a shard is damaged, or a sample has no class.
    """
    if path is None:
        raise InputError("data.path is not set; give the folder of the tar shards")
    found = shards.find_shards(path, ".tar", LISTS)
    second = shards.validation_split(list(found.splits))
    used, notes = shards.use_of(printable(path), second)
    count = sum(len(found.splits[split]) for split in used.values())
    left_out = found.left_out_of(used.values())
    samples: dict[str, list[list[_Sample]]] = {}
    with progress.counted("reading shards", count) as advance:
        for name, split in used.items():
            for file in found.splits[split]:
                part = _read_shard(found.root / file.path, image_key, label_key)
                left_out += part.left_out
                samples.setdefault(name, []).append(part.samples)
                advance(1)
    every = itertools.chain.from_iterable(itertools.chain(*samples.values()))
    numbers, classes = _classes(found.root, list(every))
    return rows.row_dataset(
        printable(path),
        {
            name: WebdatasetSource(
                root=found.root,
                files=found.splits[split],
                rows=_rows(samples[name], numbers),
                split=split,
                size=size,
            )
            for name, split in used.items()
        },
        classes,
        validation_fraction=validation_fraction,
        other_classes=other_classes,
        left_out=left_out,
        notes=[*found.notes, *notes],
    )


class _Shard(NamedTuple):
    """The samples of a shard, and how many members are left out, by the reason."""

    samples: list[_Sample]
    left_out: LeftOut


def _read_shard(path: Path, image_key: str | None, label_key: str | None) -> _Shard:
    """Find the images and classes of a shard; images are not read.

    Raises:
      InputError: if it is damaged, or a sample has no class or several images.
    """
    shard = _Shard([], LeftOut())
    try:
        with path.open("rb", buffering=0) as file:
            for key, members in _samples(path, shard.left_out):
                where = f"{printable(path)}: {key}"
                image = _image(where, members, image_key)
                if image is None:
                    shard.left_out["samples without an image"] += 1
                    continue
                label = _label(file, where, members, label_key)
                name = image.name.removeprefix("./")
                shard.samples.append(_Sample(name, image.offset, image.length, label))
    except OSError as error:
        raise cannot_read(path, error) from error
    return shard


def _samples(path: Path, left_out: LeftOut) -> Iterator[tuple[str, _Members]]:
    """The samples of a shard: members that follow each other and share their key."""
    key, members = "", {}
    for member in tar_index.members(path):
        match = _MEMBER.fullmatch(member.name.replace("\\", "/"))
        if match is None:
            left_out["members that are no part of a sample"] += 1
            continue
        ending = match[2].lower()
        if match[1] != key or ending in members:
            if members:
                yield key, members
            key, members = match[1], {}
        members[ending] = member
    if members:
        yield key, members


def _image(where: str, members: _Members, key: str | None) -> Member | None:
    """The image of a sample; None if it has none."""
    if key is not None:
        return members.get(key.lower())
    found = [ending for ending in IMAGES if ending in members]
    if len(found) > 1:
        raise InputError(
            f"{where} has several images ({', '.join(found)}); say which is meant with "
            "--image_key of `prepare` (training: --config.data.image_key)"
        )
    return members[found[0]] if found else None


def _label(file: io.RawIOBase, where: str, members: _Members, key: str | None) -> str:
    """The class of a sample, as text."""

    def content(ending: str) -> str:
        member = members[ending]
        if member.length > _LONGEST:
            raise InputError(f"{where}.{ending} has {member.length} bytes; refused")
        file.seek(member.offset)
        try:
            return (file.read(member.length) or b"").decode().strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{where}.{ending} is not text ({error})") from error

    wanted = key or LABEL
    if wanted in members:
        label = content(wanted)
    elif JSON in members:
        try:
            label = json.loads(content(JSON))[key or JSON_KEY]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{where}.{JSON} has no {key or JSON_KEY} ({error!r}); say which key "
                "has the class with --label_key of `prepare` (training: "
                "--config.data.label_key)"
            ) from error
    else:
        raise InputError(
            f"{where} has no class: it has {', '.join(sorted(members))}, and the class "
            f"is expected in {LABEL}, or in a key of {JSON} (--label_key of `prepare`)"
        )
    if not isinstance(label, str | int) or isinstance(label, bool) or label == "":
        raise InputError(f"{where} has the class {label!r}, neither number nor text")
    return str(label)


def _classes(
    root: Path, samples: Sequence[_Sample]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The numbers of the classes by their text, and their names, or WNIDs.

    Raises:
      InputError: if the list of names is too short, or there are no samples.
    """
    texts = sorted({sample.label for sample in samples})
    if not texts:
        raise InputError(f"{printable(root)} has no sample with an image")
    if not all(text.isdecimal() for text in texts):
        return {text: number for number, text in enumerate(texts)}, tuple(texts)
    numbers = {text: int(text) for text in texts}
    count = max(numbers.values()) + 1
    listed = next((root / name for name in LISTS if (root / name).is_file()), None)
    if listed is None:
        names = _wnids(samples, numbers)
        return numbers, names or rows.numbered_classes(count - 1, printable(root))
    try:
        lines = listed.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{printable(listed)} can't be read ({error})") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) < count:
        raise InputError(
            f"{printable(listed)} names {len(names)} classes, and the samples have the "
            f"number {count - 1}"
        )
    words = imagenet_classes.words()
    wnids = tuple(name.partition(" ")[0] for name in names)
    return numbers, wnids if all(wnid in words for wnid in wnids) else names


def _wnids(
    samples: Sequence[_Sample], numbers: dict[str, int]
) -> tuple[str, ...] | None:
    """The WNIDs of the classes, where the samples' names have them, one for each number
    from 0."""
    found: dict[int, str] = {}
    for sample in samples:
        match = _WNID.search(sample.name)
        number = numbers[sample.label]
        if match is None or found.setdefault(number, match[1]) != match[1]:
            return None
    whole = len(set(found.values())) == len(found) == max(found) + 1
    return tuple(found[number] for number in range(len(found))) if whole else None


def _rows(parts: Sequence[Sequence[_Sample]], numbers: dict[str, int]) -> Rows:
    """The samples of several shards as rows."""
    samples = list(itertools.chain.from_iterable(parts))
    counts = [len(part) for part in parts]
    return Rows(
        file=np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        number=np.concatenate([np.arange(n) for n in (0, *counts)]).astype(np.int64),
        label=np.asarray([numbers[sample.label] for sample in samples], np.int32),
        place=np.asarray([sample[1:3] for sample in samples], np.int64).reshape(-1, 2),
        names=np.asarray([sample.name for sample in samples], object),
    )
