"""Grain: sources to host batches, host batches to sharded arrays.

An example is decided by the record, its index and the seed, and a batch by the step:
how many threads, workers or processes read, and where a run was interrupted, changes
nothing. So the step is the whole state of the data, and nothing of Grain is saved.
"""

import dataclasses
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grain
import numpy as np

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loading import batching
from alexnet_jax.data.sources.randomized import corrupt
from alexnet_jax.data.sources.registry import open_dataset
from alexnet_jax.data.statistics import PixelSums, Statistics
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.process_pool import cores


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """An open data set and how it is read. Made by `open_pipeline`."""

    dataset: Dataset
    crop: int
    crops: bool
    flip: bool
    subtract_mean: bool
    threads: int
    workers: int
    buffer: int
    timeout: float

    def __post_init__(self) -> None:
        if self.workers < 0 or self.threads < 1 or self.buffer < 1:
            raise InputError(
                f"data.threads={self.threads} and data.buffer={self.buffer} must be at "
                f"least 1, data.workers={self.workers} at least 0"
            )
        if not 0 < self.timeout < threading.TIMEOUT_MAX:
            raise InputError(
                f"data.timeout={self.timeout} must be above 0 and finite, in seconds"
            )


def open_pipeline(
    *,
    source: str = "prepared",
    path: str | None = None,
    size: int = 256,
    validation_fraction: float = 0.1,
    crop: int = 224,
    crops: bool = True,
    flip: bool = True,
    subtract_mean: bool = True,
    random_labels: float = 0.0,
    pixels: str = "true",
    corruption_seed: int = 0,
    threads: int | None = None,
    workers: int = 0,
    buffer: int | None = None,
    timeout: float = 300.0,
) -> Pipeline:
    """Open a data set for training and evaluation.

    Args:
      source, path, size, validation_fraction: see `sources.open_dataset`.
      crop: side of the square the network sees, in pixels.
      crops: whether training crops are random; if not, the centre.
      flip: whether training crops are mirrored at random.
      subtract_mean: whether the mean picture is subtracted from crops; if not, zeros.
      random_labels, pixels, corruption_seed: labels and pixels replaced by chance; see
        `corruption.corrupt`.
      threads: that read and decode together at each batch; None takes one for each
        core, shared among the workers. A matter of speed only, as are the next two.
      workers: processes that read and decode, each with its own threads; 0 for none.
        Threads do not wait for each other in decoding, so processes help only where
        there are so many cores that Python itself is the limit.
      buffer: batches made ahead; None takes two.
      timeout: seconds a batch may take; after them a disk or a worker is taken to hang.

    Raises:
      InputError: if the data set can't be opened or a number is out of range.
    """
    dataset = open_dataset(
        source=source, path=path, size=size, validation_fraction=validation_fraction
    )
    dataset = corrupt(
        dataset, random_labels=random_labels, pixels=pixels, seed=corruption_seed
    )
    if not 0 < crop <= dataset.size:
        raise InputError(
            f"data.crop={crop} must lie between 1 and the stored pictures' side of "
            f"{dataset.size}"
        )
    return Pipeline(
        dataset=dataset,
        crop=crop,
        crops=crops,
        flip=flip,
        subtract_mean=subtract_mean,
        threads=(max(1, cores() // max(1, workers)) if threads is None else threads),
        workers=workers,
        buffer=2 if buffer is None else buffer,
        timeout=timeout,
    )


def measure_statistics(
    pipeline: Pipeline, advance: Callable[[int], None] = lambda count: None
) -> Statistics:
    """Mean picture and colour PCA of the training pictures, read once.

    `advance` is called with the number of pictures read since, and may raise.
    """
    source = pipeline.dataset.splits["train"]
    size = pipeline.dataset.size

    def sums_of(indices: np.ndarray) -> PixelSums:
        sums = PixelSums.zeros(size)
        for index in indices:
            sums.add(source[int(index)]["image"])
        return sums

    parts = (
        grain.MapDataset.range(len(source))
        .batch(batching.EXAMPLES_AT_ONCE)
        .map(sums_of)
        .to_iter_dataset(grain.ReadOptions(pipeline.threads, 2 * pipeline.threads))
    )
    total = PixelSums.zeros(size)
    with closing(parts) as iterator:
        for part in iterator:
            total += part
            advance(part.count)
    return total.statistics()


def train_dataset(
    pipeline: Pipeline,
    statistics: Statistics,
    *,
    batch_size: int,
    seed: int,
    share: int = 0,
    shares: int = 1,
) -> grain.MapDataset:
    """One of the shares of every training batch, by step.

    Batches run on over the borders of epochs, and each epoch has its own order. The
    cut into shares comes after the random draws, so that no two shares see the same
    crops.
    """
    examples_of_share = batch_size // shares
    batch = functools.partial(
        batching.train_batch,
        source=pipeline.dataset.splits["train"],
        share=examples_of_share,
        crop=pipeline.crop,
        border=pipeline.dataset.size - pipeline.crop,
        crops=pipeline.crops,
        flip=pipeline.flip,
        statistics=statistics,
        seed=seed,
        threads=pipeline.threads,
        timeout=pipeline.timeout,
    )
    examples = len(pipeline.dataset.splits["train"])
    # As good as without end; `repeat(None)` overflows with batches of one.
    epochs = sys.maxsize // (2 * examples)
    order = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return (
        grain.MapDataset.range(examples)
        .shuffle(seed=order)
        .repeat(epochs)
        .batch(examples_of_share)
        .map_with_index(batch)[share::shares]
    )


def evaluation_dataset(
    pipeline: Pipeline,
    split: str,
    *,
    batch_size: int,
    share: int = 0,
    shares: int = 1,
) -> grain.MapDataset:
    """One of the shares of every batch of a split, each example exactly once.

    Every share has as many batches; examples past the end are padding, with a false
    `mask`.
    """
    if split not in pipeline.dataset.splits:
        raise InputError(
            f"no split {split!r}; choose from {', '.join(pipeline.dataset.splits)}"
        )
    source = pipeline.dataset.splits[split]
    count = -(-len(source) // batch_size)
    batch = functools.partial(
        batching.evaluation_batch,
        source=source,
        size=pipeline.dataset.size,
        threads=pipeline.threads,
        timeout=pipeline.timeout,
    )
    return (
        grain.MapDataset.range(count * batch_size)
        .batch(batch_size // shares)
        .map(batch)[share::shares]
    )


@contextmanager
def closing(dataset: grain.IterDataset) -> Iterator[Iterator[Any]]:
    """An iterator whose threads and processes end with the block."""
    iterator = iter(dataset)
    try:
        yield iterator
    finally:
        iterator.close()


# What presets change of the defaults of `open_pipeline`.
PRESETS: dict[str, dict[str, int]] = {
    # Zhang et al. 2017, appendix A: 28x28, each image standardized by itself.
    "small": {"crop": 28, "subtract_mean": False},
    # Section 4.1, the first form of augmentation: random crops and horizontal flips.
    "no_crops": {"crops": False, "flip": False},
}
