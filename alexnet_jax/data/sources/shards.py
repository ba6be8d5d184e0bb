"""Finds the files of a set that is stored in shards, and the split of each."""

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.image_tree import (
    LeftOut,
    cannot_read,
    is_unfinished,
    printable,
)
from alexnet_jax.data.sources import split_folders
from alexnet_jax.data.sources.rows import ShardFile
from alexnet_jax.runtime import clutter
from alexnet_jax.runtime.errors import InputError


_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
# In a shard's name, which of how many it is.
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)(?!\d)")
# In the Hub's cache each upload has a folder.
_UPLOAD = re.compile(r"(?:^|/)snapshots/([0-9a-f]{40})/")


class Shards(NamedTuple):
    """The shards of a set.

    Attributes:
      root: the folder that their paths begin in.
      splits: those of `train`, and of `validation` or `test` where there are any.
      left_out: how many other files there are, by the reason.
      notes: what a user should know of them, a line each.
    """

    root: Path
    splits: dict[str, tuple[ShardFile, ...]]
    left_out: LeftOut
    notes: list[str]

    def left_out_of(self, used: Collection[str]) -> LeftOut:
        """The same, with the shards of splits that aren't used."""
        left_out = self.left_out + LeftOut()
        for split, files in self.splits.items():
            if split not in used:
                left_out[f"of split {split}"] += len(files)
        return left_out


def find_shards(given: str, ending: str, used: tuple[str, ...] = ()) -> Shards:
    """Find the shards in a folder at any depth, in the order of their paths; or one
    file; or those of a pattern such as `shards/{000..999}.tar`.

    The split of a shard is a word in its name, or in that of the nearest folder. Where
    no name has such a word, all are training images.

    Args:
      given: what the user gave.
      ending: of the shards' names, such as `.tar`.
      used: the names of files that have another use, and are not left out.

    Raises:
      InputError: if there are none, none of training images, or some are in doubt.
    """
    left_out, notes = LeftOut(), list[str]()
    if _RANGE.search(given):
        paths = [Path(name) for name in expand(given)]
        if not paths:
            raise InputError(f"{printable(given)} counts down, and names no file")
        if absent := [path for path in paths if not path.is_file()]:
            raise InputError(
                f"{len(absent)} of the {len(paths)} files of {printable(given)} are "
                f"not there, the first {printable(absent[0])}"
            )
        root = Path(os.path.commonpath([path.parent for path in paths]))
        found = [path.relative_to(root).as_posix() for path in paths]
    elif (file := Path(given)).is_file():
        if file.suffix != ending:
            raise InputError(
                f"{printable(given)} does not end in {ending}; give a file that does "
                "(unpack an archive first), or the folder of the shards"
            )
        root, found = file.parent, [file.name]
    elif file.is_dir():
        root, found = file, list(_walk(file, ending, used, left_out))
        notes = _absent(root, found)
    else:
        raise InputError(f"{printable(given)} is no file and no folder")
    if not found:
        has = ", ".join(f"{n} {reason}" for reason, n in sorted(left_out.items()))
        raise InputError(
            f"{printable(given)} has no file that ends in {ending}"
            f"{f' (it has {has})' if has else ''}"
        )
    splits = _by_split(root, found)
    return Shards(
        root,
        {
            split: tuple(ShardFile(path, _length(root / path)) for path in paths)
            for split, paths in splits.items()
        },
        +left_out,
        notes,
    )


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise cannot_read(path, error) from error


def _absent(root: Path, found: list[str]) -> list[str]:
    """A line for shards whose names count more of them than there are.

    Raises:
      InputError: if one is there twice, or there are two sets of them, as after two
        uploads.
    """
    uploads: dict[str, str] = {}
    counted: dict[str, tuple[int, dict[int, str]]] = {}
    for path in found:
        if match := _UPLOAD.search(path):
            uploads.setdefault(match[1], path)
        if match := _NUMBERED.search(path, path.rfind("/") + 1):
            number, of = int(match[1]), int(match[2])
            total, shards = counted.setdefault(path[: match.start()], (of, {}))
            if total != of:
                raise _doubled(root, "two sets of shards", *shards.values(), path)
            if shards.setdefault(number, path) != path:
                raise _doubled(root, "a shard twice", shards[number], path)
    if len(uploads) > 1:
        raise _doubled(root, "two uploads", *uploads.values())
    lines = []
    for begin, (total, shards) in counted.items():
        # Some count from 1.
        first = int(total in shards)
        absent = [n for n in range(first, first + total) if n not in shards]
        if absent:
            lines.append(
                f"{printable(root)}: {len(absent)} of the {total} shards "
                f"{printable(begin)}-... are not there, the first is number {absent[0]}"
            )
    return lines


def _doubled(root: Path, what: str, *paths: str) -> InputError:
    """The error for images that would be read twice."""
    return InputError(
        f"{printable(root)} has {what}, as {printable(paths[0])} and "
        f"{printable(paths[-1])}; move one away, or give the folder of the other"
    )


def expand(pattern: str) -> list[str]:
    """The names that a pattern with ranges such as `{000..999}` stands for."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match[1], match[2]
    return [
        name
        for number in range(int(first), int(last) + 1)
        for name in expand(
            f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}"
        )
    ]


def _walk(
    root: Path, ending: str, used: tuple[str, ...], left_out: LeftOut
) -> Iterator[str]:
    """The files of that ending, by their relative paths; others are counted."""

    def stop(error: OSError) -> None:
        raise InputError(
            f"{printable(error.filename)} can't be read ({error.strerror})"
        ) from error

    found, entered = [], set()
    for folder, folders, files in os.walk(root, onerror=stop, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            # By a link, which may lead to a folder above.
            left_out["in a folder read already"] += len(files)
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        # Not counted: the same command, given again, must find the same.
        folders[:] = [n for n in folders if not is_unfinished(f"{folder}/{n}")]
        hidden = [n for n in folders if _is_hidden(n)]
        # Real folders before links to them, on every disk in the same order.
        folders[:] = sorted(
            (n for n in folders if n not in hidden),
            key=lambda name: (os.path.islink(os.path.join(folder, name)), name),
        )
        left_out["hidden"] += len(hidden)
        for name in files:
            if _is_hidden(name):
                left_out["hidden"] += 1
            elif name.endswith(ending):
                path = os.path.relpath(os.path.join(folder, name), root)
                found.append(Path(path).as_posix())
            elif name not in used:
                left_out[os.path.splitext(name)[1].lower() or "other"] += 1
    return iter(sorted(found))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or clutter.is_clutter(name)


def _by_split(root: Path, found: list[str]) -> dict[str, list[str]]:
    """The files of each split."""
    splits: dict[str, list[str]] = {}
    for path in found:
        # The file's own name first, then its folders from the inside.
        words = (split_folders.role(part) for part in reversed(Path(path).parts))
        splits.setdefault(next((w for w in words if w), ""), []).append(path)
    if list(splits) == [""]:
        return {"train": splits[""]}
    if "" in splits:
        raise InputError(
            f"{printable(root)}: nothing says the split of {printable(splits[''][0])}; "
            "put train, validation or test into its name, or give one of the folders"
        )
    if "train" not in splits:
        raise InputError(
            f"{printable(root)} has files of {', '.join(sorted(splits))} and none of "
            "train"
        )
    return splits


class Use(NamedTuple):
    """What a set's splits serve for.

    Attributes:
      splits: the set's own split for `train`, and for `validation` if one serves.
      notes: what a user should know of it.
    """

    splits: dict[str, str]
    notes: list[str]


def use_of(where: str, second: str | None) -> Use:
    """What the splits of a set serve for, `second` being that for validation."""
    splits = {"train": "train"} | ({"validation": second} if second else {})
    notes = []
    if second == "test":
        notes = [f"{where}: the images of test are the validation images"]
    return Use(splits, notes)


def validation_split(names: list[str]) -> str | None:
    """The split that serves for validation; None if a part of `train` must."""
    return next((name for name in ("validation", "test") if name in names), None)
