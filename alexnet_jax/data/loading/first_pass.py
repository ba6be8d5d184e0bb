"""Reads every image of a data set once, before training.

That gives the mean image and the colours, and finds the images that can't be read
while nothing is lost yet.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import grain
import numpy as np

from alexnet_jax.data.dataset import Example, Source, check_label
from alexnet_jax.data.loading import batching
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.statistics import PixelSums, Statistics
from alexnet_jax.runtime.errors import InputError


# The errors of a split's images that can't be read, by their number.
Errors = dict[int, InputError]
# What takes the next examples of a split, in their order.
Take = Callable[[Sequence[Example]], None]


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
    """Some images of a split: how many they are, their sums, what failed, and those
    that didn't, where they are wanted."""

    images: int
    sums: PixelSums
    errors: Errors
    examples: list[Example]


def read_all(
    pipeline: Pipeline,
    advance: Callable[[int], None] = lambda count: None,
    takers: Mapping[str, Take] | None = None,
) -> FirstPass:
    """Read and decode every image of every split once; validation comes first.

    Args:
      pipeline: the data.
      advance: called with the number of images read since, and may raise.
      takers: by split, what is called with the examples that can be read, so that they
        need not be read again.
    """
    takers = takers or {}
    splits = pipeline.dataset.splits
    total = PixelSums.zeros(pipeline.dataset.size)
    unreadable: dict[str, Errors] = {}
    # Training images last: they are most of them, and whoever waits sees a broken
    # validation image soon.
    for split in sorted(splits, key=lambda split: split == "train"):
        errors = unreadable.setdefault(split, {})
        take = takers.get(split)
        wanted = {"measured": split == "train", "kept": take is not None}
        for part in _parts(splits[split], pipeline, **wanted):
            total += part.sums
            errors |= part.errors
            if take is not None:
                take(part.examples)
            advance(part.images)
    return FirstPass(total.statistics() if total.count else None, unreadable)


def _parts(
    source: Source, pipeline: Pipeline, *, measured: bool, kept: bool
) -> Iterator[_Part]:
    """The parts of a split, in order, read by the pipeline's threads."""

    def read(indices: np.ndarray) -> _Part:
        sums, errors = PixelSums.zeros(pipeline.dataset.size), {}
        classes = len(pipeline.dataset.class_names)
        examples: list[Example] = []
        for index in map(int, indices):
            try:
                example = source[index]
            except InputError as error:
                errors[index] = error
                continue
            check_label(int(example["label"]), classes, partial(source.name, index))
            if measured:
                sums.add(example["image"])
            if kept:
                examples.append(example)
        return _Part(len(indices), sums, errors, examples)

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
