"""Whole batches on the host, each filled in place by all threads together."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from alexnet_jax.data.dataset import Source
from alexnet_jax.data.loading import augment
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.runtime.errors import DataStalled


HostBatch = dict[str, np.ndarray]

# Examples at most that a thread makes before it looks for others: so many that handing
# them out costs nothing. Fewer where threads would go without.
EXAMPLES_AT_ONCE = 16


def train_batch(
    number: int,
    indices: np.ndarray,
    *,
    source: Source,
    share: int,
    crop: int,
    border: int,
    crops: bool,
    flip: bool,
    statistics: Statistics,
    seed: int,
    threads: int,
    timeout: float,
) -> HostBatch:
    """The batch of these examples, which is the `number`th share of all shares."""
    draws = augment.draw(seed, number * share, share, border=border)
    rows, columns = draws.rows.tolist(), draws.columns.tolist()
    if not crops:
        rows = columns = [border // 2] * share
    mirrored = (draws.mirrored & flip).tolist()
    images = np.empty((share, crop, crop, 3), np.uint8)
    labels = np.empty(share, np.int32)

    def make(place: int) -> None:
        example = source[int(indices[place])]
        labels[place] = example["label"]
        images[place] = augment.view(
            example["image"], rows[place], columns[place], crop, mirrored[place]
        )

    _in_parallel(make, source, indices, threads, timeout)
    shifts = augment.colour_shifts(
        draws.normals,
        deviations=statistics.deviations,
        directions=statistics.directions,
    )
    return {"image": images, "label": labels, "colour_shift": shifts}


def evaluation_batch(
    indices: np.ndarray, *, source: Source, size: int, threads: int, timeout: float
) -> HostBatch:
    """The batch of these examples, whole; those past the end are padding."""
    count = len(indices)
    images = np.zeros((count, size, size, 3), np.uint8)
    labels = np.zeros(count, np.int32)

    def make(place: int) -> None:
        if indices[place] < len(source):
            example = source[int(indices[place])]
            images[place], labels[place] = example["image"], example["label"]

    _in_parallel(make, source, indices, threads, timeout)
    return {"image": images, "label": labels, "mask": indices < len(source)}


def _in_parallel(
    make: Callable[[int], None],
    source: Source,
    indices: np.ndarray,
    threads: int,
    timeout: float,
) -> None:
    """Call a function with every place in a batch, in this process's threads.

    Raises:
      DataStalled: after `timeout` seconds, with what is being read.
    """
    count = len(indices)
    at_once = max(1, min(EXAMPLES_AT_ONCE, count // threads))
    in_hand: dict[int, int] = {}

    def some(start: int) -> None:
        for place in range(start, min(start + at_once, count)):
            in_hand[start] = int(indices[place])
            make(place)
        del in_hand[start]

    made = _threads(threads).map(some, range(0, count, at_once), timeout=timeout)
    try:
        for _ in made:
            pass
    except TimeoutError as error:
        stuck = [source.where(index) for index in sorted(in_hand.values())]
        what = "; ".join(stuck[:3]) or "nothing yet: all threads are taken"
        raise DataStalled(
            f"no batch within data.timeout={timeout:g} s; being read: {what}; see to "
            "the disk, and give the same command again"
        ) from error


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "examples")
