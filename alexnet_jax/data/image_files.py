"""Pictures that a user names: files, folders and patterns, decoded ahead by threads."""

import collections
import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data import images as pictures
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.process_pool import cores


# Decoded ahead of whoever takes them, for each thread.
AHEAD = 32

Item = TypeVar("Item")
Made = TypeVar("Made")


class Shown(NamedTuple):
    """A picture as it is stored, `size` pixels a side, or why it can't be read."""

    path: Path
    picture: UInt8[np.ndarray, "size size 3"] | None
    error: InputError | None


def find(arguments: Sequence[str]) -> list[Path]:
    """The picture files of file names, folders and patterns, in their order.

    Of a folder all files, at any depth, whose ending is that of a picture.

    Raises:
      InputError: if one of them finds nothing.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(_pictures_in(path))
        elif path.exists():
            inside = [path]
        else:
            inside = sorted(map(Path, glob.glob(argument, recursive=True)))
        if not inside:
            what = "has no picture in it" if path.is_dir() else "does not exist"
            raise InputError(f"{argument} {what}; give files, folders or patterns")
        found += inside
    return found


def _pictures_in(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for name in names:
            if Path(name).suffix.lower() in pictures.ENDINGS:
                yield Path(place, name)


def shown(paths: Iterable[Path], size: int) -> Iterator[Shown]:
    """Every picture in its order, decoded ahead by threads."""

    def decode(path: Path) -> Shown:
        try:
            pictures.check_bytes(path.stat().st_size, str(path))
            stored = pictures.decode(path.read_bytes(), str(path), size=size).picture
        except OSError as error:
            reason = InputError(f"{path} can't be read ({error.strerror})")
            return Shown(path, None, reason)
        except InputError as error:
            return Shown(path, None, error)
        return Shown(path, stored, None)

    return ahead(decode, paths)


def stacked(
    pictures: Iterable[UInt8[np.ndarray, "size size 3"] | None], count: int, size: int
) -> UInt8[np.ndarray, "count size size 3"]:
    """A batch of always the same size: black where a picture can't be read, or at the
    end."""
    batch = np.zeros((count, size, size, 3), np.uint8)
    for place, picture in enumerate(pictures):
        if picture is not None:
            batch[place] = picture
    return batch


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """A function's results in the order of the items, made ahead by a thread for each
    core, and never many more than were taken."""
    waiting: collections.deque[Future[Made]] = collections.deque()
    rest = iter(items)
    threads = cores()
    pool = ThreadPoolExecutor(threads, "pictures")
    try:
        for item in itertools.islice(rest, AHEAD * threads):
            waiting.append(pool.submit(make, item))
        while waiting:
            made = waiting.popleft().result()
            for item in itertools.islice(rest, 1):
                waiting.append(pool.submit(make, item))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
