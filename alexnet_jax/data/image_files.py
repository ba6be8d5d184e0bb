"""Image files that a user names, as paths or patterns: found, and decoded ahead."""

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

from alexnet_jax.data import images
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.process_pool import cores


# Results made before they are asked for, for each thread.
AHEAD = 32

Item = TypeVar("Item")
Made = TypeVar("Made")


class Shown(NamedTuple):
    """An image as it is stored, `size` pixels a side, or why it can't be read."""

    path: Path
    image: UInt8[np.ndarray, "size size 3"] | None
    error: InputError | None


def find(arguments: Sequence[str]) -> list[Path]:
    """The image files of file names, folders and patterns, in their order.

    In a folder: every file, at any depth, whose ending is that of an image.

    Raises:
      InputError: if an argument finds nothing.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(_images_in(path))
        elif path.exists():
            inside = [path]
        else:
            inside = sorted(map(Path, glob.glob(argument, recursive=True)))
        if not inside:
            what = "has no image in it" if path.is_dir() else "does not exist"
            raise InputError(f"{argument} {what}; give files, folders or patterns")
        found += inside
    return found


def _images_in(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for name in names:
            if Path(name).suffix.lower() in images.ENDINGS:
                yield Path(place, name)


def shown(paths: Iterable[Path], size: int) -> Iterator[Shown]:
    """Every image in its order, decoded ahead by threads."""

    def decode(path: Path) -> Shown:
        try:
            images.check_bytes(path.stat().st_size, str(path))
            image = images.decode(path.read_bytes(), str(path), size=size).image
        except OSError as error:
            reason = InputError(f"{path} can't be read ({error.strerror})")
            return Shown(path, None, reason)
        except InputError as error:
            return Shown(path, None, error)
        return Shown(path, image, None)

    return ahead(decode, paths)


def stacked(
    group: Iterable[UInt8[np.ndarray, "size size 3"] | None], count: int, size: int
) -> UInt8[np.ndarray, "count size size 3"]:
    """A batch of `count` images, so that a jitted function sees a single shape.

    It is black where an image can't be read, and past the end of the group.
    """
    batch = np.zeros((count, size, size, 3), np.uint8)
    for place, image in enumerate(group):
        if image is not None:
            batch[place] = image
    return batch


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """A function's results in the order of the items, made ahead by a thread for each
    core.

    At most `AHEAD` results for each thread wait, so memory stays bounded.
    """
    waiting: collections.deque[Future[Made]] = collections.deque()
    rest = iter(items)
    threads = cores()
    pool = ThreadPoolExecutor(threads, "images")
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
