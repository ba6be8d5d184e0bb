"""Batches on the host by step, in the order of Grain's shuffle.

The record, its index and the seed decide an example, and the step decides a batch. The
number of threads, workers or processes, and where a run was interrupted, change
nothing. So the step is the whole state of the data, and nothing of Grain is saved.
"""

import functools
import sys

import grain
import numpy as np

from alexnet_jax.data.loading import batching
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.runtime.errors import InputError


def train_dataset(
    pipeline: Pipeline,
    statistics: Statistics,
    *,
    batch_size: int,
    seed: int,
    slice_index: int = 0,
    slice_count: int = 1,
    held: bool = False,
) -> grain.MapDataset:
    """Training batches by step: slice `slice_index` of `slice_count` of each.

    Batches continue across the end of an epoch, and each epoch has its own order.
    `batch_size` is that of the whole batch; `statistics` give the colour shift. Where
    the devices hold the images, a batch is what `batching.train_draws` gives.
    """
    draws = functools.partial(
        batching.train_draws,
        border=pipeline.dataset.size - pipeline.crop,
        crop=pipeline.crop,
        crops=pipeline.crops,
        flip=pipeline.flip,
        crop_area=pipeline.crop_area,
        **pipeline.recipes,
        size=pipeline.dataset.size,
        statistics=statistics,
        seed=seed,
    )
    whole = functools.partial(
        batching.train_batch,
        draws=draws,
        source=pipeline.dataset.splits["train"],
        crop=pipeline.crop,
        threads=pipeline.threads_each,
        timeout=pipeline.timeout,
    )
    count = batch_size // slice_count
    make = functools.partial(
        batching.train_slice,
        make=draws if held else whole,
        count=count,
        examples=len(pipeline.dataset.splits["train"]),
        # Not the seed itself: an epoch's order has the seed plus the epoch, so that
        # seed 1 would begin with the order of seed 0's second epoch.
        order_seed=int(np.random.SeedSequence(seed).generate_state(1)[0]),
    )
    # Practically without end. The numbers are those of the slices of all processes, and
    # so the draws are those of an example's position in the global stream.
    numbers = grain.MapDataset.range(sys.maxsize // (2 * count))
    return numbers[slice_index::slice_count].map(make)


def evaluation_dataset(
    pipeline: Pipeline,
    split: str,
    *,
    batch_size: int,
    slice_index: int = 0,
    slice_count: int = 1,
    held: bool = False,
) -> grain.MapDataset:
    """Evaluation batches of a split: slice `slice_index` of `slice_count` of each.

    Every example comes exactly once. All slices have the same number of batches, since
    every process must take part in every step; what is past the end is padding, with a
    false `mask`. `batch_size` is that of the whole batch. Where the devices hold the
    images, a batch is what `batching.evaluation_places` gives.

    Raises:
      InputError: if there is no such split.
    """
    if split not in pipeline.dataset.splits:
        raise InputError(
            f"no split {split!r}; choose from {', '.join(pipeline.dataset.splits)}"
        )
    source = pipeline.dataset.splits[split]
    count = -(-len(source) // batch_size)
    whole = functools.partial(
        batching.evaluation_batch,
        source=source,
        size=pipeline.dataset.size,
        threads=pipeline.threads_each,
        timeout=pipeline.timeout,
    )
    places = functools.partial(batching.evaluation_places, examples=len(source))
    make = functools.partial(
        batching.evaluation_slice,
        make=places if held else whole,
        count=batch_size // slice_count,
    )
    numbers = grain.MapDataset.range(count * slice_count)
    return numbers[slice_index::slice_count].map(make)
