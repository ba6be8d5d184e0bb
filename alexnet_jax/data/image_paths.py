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

from alexnet_jax.data import decoding, image_tree
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

    A file that is named is taken whatever it is. In a folder those count that
    `image_tree` finds; a line says what is left out. A pattern stands for the files and
    folders that it matches.

    Raises:
      InputError: if an argument finds nothing.
    """
    found: list[Path] = []
    for argument in arguments:
        named = Path(argument)
        paths = [named]
        if not os.path.lexists(named):
            paths = sorted(map(Path, glob.glob(argument, recursive=True)))
        inside = [file for path in paths for file in _files(path)]
        if not inside:
            what = "has no image in it" if paths else "does not exist"
            raise InputError(
                f"{image_tree.printable(argument)} {what}; give files, folders or "
                "patterns"
            )
        found += inside
    return found


def _files(path: Path) -> list[Path]:
    """The images of a folder, or the file itself."""
    if not path.is_dir():
        return [path]
    found = image_tree.scan(path)
    image_tree.say_left_out(path, found.left_out)
    return [path / image.path for image in found.images]


def shown(paths: Iterable[Path], size: int, resize: str = "square") -> Iterator[Shown]:
    """Every image in its order, decoded ahead by threads; see `decoding.decode`."""

    def decode(path: Path) -> Shown:
        name = image_tree.printable(path)
        try:
            decoding.check_bytes(path.stat().st_size, name)
            data = path.read_bytes()
            image = decoding.decode(data, name, size=size, resize=resize).image
        except OSError as error:
            return Shown(path, None, image_tree.cannot_read(path, error))
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
