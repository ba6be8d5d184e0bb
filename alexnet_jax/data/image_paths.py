"""Image files that a user names, as paths or patterns: found, and decoded ahead."""

import collections
import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data import decoding
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
            files = (Path(place, n) for place, _, names in os.walk(path) for n in names)
            inside = sorted(f for f in files if f.suffix.lower() in decoding.ENDINGS)
        elif path.exists():
            inside = [path]
        else:
            inside = sorted(map(Path, glob.glob(argument, recursive=True)))
        if not inside:
            what = "has no image in it" if path.is_dir() else "does not exist"
            raise InputError(f"{argument} {what}; give files, folders or patterns")
        found += inside
    return found


def shown(paths: Iterable[Path], size: int) -> Iterator[Shown]:
    """Every image in its order, decoded ahead by threads."""

    def decode(path: Path) -> Shown:
        try:
            decoding.check_bytes(path.stat().st_size, str(path))
            image = decoding.decode(path.read_bytes(), str(path), size=size).image
        except OSError as error:
            reason = InputError(f"{path} can't be read ({error.strerror})")
            return Shown(path, None, reason)
        except InputError as error:
            return Shown(path, None, error)
        return Shown(path, image, None)

    return ahead(decode, paths)


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """A function's results in the order of the items, made ahead by a thread for each
    core; at most `AHEAD` results for each thread wait, so memory stays bounded."""
    rest = iter(items)
    threads = cores()
    pool = ThreadPoolExecutor(threads, "images")
    try:
        first = itertools.islice(rest, AHEAD * threads)
        waiting = collections.deque(pool.submit(make, item) for item in first)
        while waiting:
            made = waiting.popleft().result()
            waiting += [pool.submit(make, item) for item in itertools.islice(rest, 1)]
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
