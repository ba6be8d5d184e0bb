"""Reads every image of a data set once, before training.

That gives the mean image and the colours, and finds the images that can't be read
while nothing is lost yet.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import grain
import numpy as np

from alexnet_jax.data.dataset import Source
from alexnet_jax.data.loading import batching
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.statistics import PixelSums, Statistics
from alexnet_jax.runtime.errors import InputError


# The errors of a split's images that can't be read, by their number.
Errors = dict[int, InputError]


class FirstPass(NamedTuple):
    """What reading every image shows.

    Attributes:
      statistics: mean image and colour PCA of the training images that can be read;
        None if there is no such image.
      unreadable: of each split, why images can't be read.
    """

    statistics: Statistics | None
    unreadable: Mapping[str, Errors]


class _Part(NamedTuple):
    """Some images of a split: how many they are, their sums, and what failed."""

    images: int
    sums: PixelSums
    errors: Errors


def read_all(
    pipeline: Pipeline, advance: Callable[[int], None] = lambda count: None
) -> FirstPass:
    """Read and decode every image of every split once; validation comes first.

    `advance` is called with the number of images read since, and may raise.
    """
    splits = pipeline.dataset.splits
    total = PixelSums.zeros(pipeline.dataset.size)
    unreadable: dict[str, Errors] = {}
    # Training images last: they are most of them, and whoever waits sees a broken
    # validation image soon.
    for split in sorted(splits, key=lambda split: split == "train"):
        errors = unreadable.setdefault(split, {})
        for part in _parts(splits[split], pipeline, measured=split == "train"):
            total += part.sums
            errors |= part.errors
            advance(part.images)
    return FirstPass(total.statistics() if total.count else None, unreadable)


def _parts(source: Source, pipeline: Pipeline, *, measured: bool) -> Iterator[_Part]:
    """The parts of a split, in order, read by the pipeline's threads."""

    def read(indices: np.ndarray) -> _Part:
        sums, errors = PixelSums.zeros(pipeline.dataset.size), {}
        for index in map(int, indices):
            try:
                image = source[index]["image"]
            except InputError as error:
                errors[index] = error
            else:
                if measured:
                    sums.add(image)
        return _Part(len(indices), sums, errors)

    parts = (
        grain.MapDataset.range(len(source))
        .batch(batching.EXAMPLES_AT_ONCE)
        .map(read)
        .to_iter_dataset(
            grain.ReadOptions(pipeline.threads_each, 2 * pipeline.threads_each)
        )
    )
    with contextlib.closing(iter(parts)) as iterator:
        yield from iterator
