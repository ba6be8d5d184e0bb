"""From a data set to batches on the host, ordered by Grain.

The record, its index and the seed decide an example, and the step decides a batch. The
number of threads, workers or processes, and where a run was interrupted, change
nothing. So the step is the whole state of the data, and nothing of Grain is saved.
"""

import contextlib
import dataclasses
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
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


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Pipeline:
    """An open data set and how it is read. Made by `make_pipeline`.

    The defaults of the `data` section's reading options stand here.

    Attributes:
      dataset: the data set.
      crop: side of the square the network sees, in pixels.
      crops: whether training crops are random; if not, the centre.
      flip: whether training crops are flipped left to right at random.
      subtract_mean: whether the mean image is subtracted from crops; if not, zeros.
      threads: threads that read and decode each batch together, in each worker.
      workers: processes that read and decode; 0 for none. Threads decode in parallel,
        so processes help only where there are so many cores that Python itself is the
        limit.
      buffer: batches made ahead.
      timeout: seconds a batch may take, before its disk or worker counts as hanging.
    """

    dataset: Dataset
    crop: int = 224
    crops: bool = True
    flip: bool = True
    subtract_mean: bool = True
    threads: int
    workers: int = 0
    buffer: int
    timeout: float = 300.0

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.dataset.size:
            raise InputError(
                f"data.crop={self.crop} must lie between 1 and the stored images' side "
                f"of {self.dataset.size}"
            )
        if self.workers < 0 or self.threads < 1 or self.buffer < 1:
            raise InputError(
                f"data.threads={self.threads} and data.buffer={self.buffer} must be at "
                f"least 1, data.workers={self.workers} at least 0"
            )
        if not 0 < self.timeout < threading.TIMEOUT_MAX:
            raise InputError(
                f"data.timeout={self.timeout} must be above 0 and finite, in seconds"
            )


def make_pipeline(
    dataset: Dataset,
    *,
    crop: int = Pipeline.crop,
    crops: bool = Pipeline.crops,
    flip: bool = Pipeline.flip,
    subtract_mean: bool = Pipeline.subtract_mean,
    threads: int | None = None,
    workers: int = Pipeline.workers,
    buffer: int | None = None,
    timeout: float = Pipeline.timeout,
) -> Pipeline:
    """A pipeline for training and evaluation on an open data set.

    Args:
      dataset: from `registry.open_dataset`, `arrays.array_dataset` or elsewhere.
      crop, crops, flip, subtract_mean, workers, timeout: see `Pipeline`.
      threads: as there; None divides the cores among the workers. Threads, workers
        and buffer change only the speed.
      buffer: as there; None takes 2.

    Raises:
      InputError: if a number is out of range.
    """
    return Pipeline(
        dataset=dataset,
        crop=crop,
        crops=crops,
        flip=flip,
        subtract_mean=subtract_mean,
        threads=max(1, cores() // max(1, workers)) if threads is None else threads,
        workers=workers,
        buffer=2 if buffer is None else buffer,
        timeout=timeout,
    )


def open_pipeline(
    *,
    source: str = "prepared",
    path: str | None = None,
    size: int = 256,
    validation_fraction: float = 0.1,
    random_labels: float = 0.0,
    pixels: str = "true",
    corruption_seed: int = 0,
    crop: int = Pipeline.crop,
    crops: bool = Pipeline.crops,
    flip: bool = Pipeline.flip,
    subtract_mean: bool = Pipeline.subtract_mean,
    threads: int | None = None,
    workers: int = Pipeline.workers,
    buffer: int | None = None,
    timeout: float = Pipeline.timeout,
) -> Pipeline:
    """Open a data set for training and evaluation: the config section `data`.

    Args:
      source, path, size, validation_fraction: see `registry.open_dataset`.
      random_labels, pixels, corruption_seed: labels and pixels replaced at random; see
        `randomized.corrupt`.
      crop, crops, flip, subtract_mean, threads, workers, buffer, timeout: see
        `make_pipeline`.

    Raises:
      InputError: if the data set can't be opened or a number is out of range.
    """
    dataset = open_dataset(
        source=source, path=path, size=size, validation_fraction=validation_fraction
    )
    dataset = corrupt(
        dataset, random_labels=random_labels, pixels=pixels, seed=corruption_seed
    )
    return make_pipeline(
        dataset,
        crop=crop,
        crops=crops,
        flip=flip,
        subtract_mean=subtract_mean,
        threads=threads,
        workers=workers,
        buffer=buffer,
        timeout=timeout,
    )


def reading(section: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a `data` section that `make_pipeline` takes: how a data set is read,
    and not which."""
    taken = inspect.signature(make_pipeline).parameters
    return {key: value for key, value in section.items() if key in taken}


def measure_statistics(
    pipeline: Pipeline, advance: Callable[[int], None] = lambda count: None
) -> Statistics:
    """Mean image and colour PCA of the training images, read once.

    `advance` is called with the number of images read since, and may raise.
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
    with contextlib.closing(iter(parts)) as iterator:
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
    slice_index: int = 0,
    slice_count: int = 1,
) -> grain.MapDataset:
    """Training batches by step: this process's slice of each.

    Batches continue across the end of an epoch, and each epoch has its own order.

    Args:
      pipeline: what is read, and how.
      statistics: for the colour shift.
      batch_size: of the global batch, over all slices.
      seed: of the run.
      slice_index: which slice of each batch this process reads.
      slice_count: how many slices a batch has.
    """
    examples_per_process = batch_size // slice_count
    batch = functools.partial(
        batching.train_batch,
        source=pipeline.dataset.splits["train"],
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
    # Practically without end; `repeat(None)` overflows with batches of one.
    epochs = sys.maxsize // (2 * examples)
    # Not the seed itself: Grain adds the epoch to it, so that seed 1 would begin with
    # the order of seed 0's second epoch.
    order = int(np.random.SeedSequence(seed).generate_state(1)[0])
    # Sliced last: `map_with_index` then numbers the slices of all processes, and so the
    # draws are those of an example's position in the global stream. Sliced before it,
    # every process would count from 0 and draw the same crops as the others.
    return (
        grain.MapDataset.range(examples)
        .shuffle(seed=order)
        .repeat(epochs)
        .batch(examples_per_process)
        .map_with_index(batch)[slice_index::slice_count]
    )


def evaluation_dataset(
    pipeline: Pipeline,
    split: str,
    *,
    batch_size: int,
    slice_index: int = 0,
    slice_count: int = 1,
) -> grain.MapDataset:
    """Evaluation batches of a split: this process's slice of each.

    Every example comes exactly once. All slices have the same number of batches, since
    every process must take part in every step; what is past the end is padding, with a
    false `mask`.

    Args:
      pipeline: what is read, and how.
      split: `train` or `validation`.
      batch_size: of the global batch, over all slices.
      slice_index: which slice of each batch this process reads.
      slice_count: how many slices a batch has.

    Raises:
      InputError: if there is no such split.
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
        .batch(batch_size // slice_count)
        .map(batch)[slice_index::slice_count]
    )


# What presets change of the defaults of `open_pipeline`.
PRESETS: dict[str, dict[str, int]] = {
    # Zhang et al. 2017, appendix A: 28x28, each image standardized by itself.
    "small": {"crop": 28, "subtract_mean": False},
    # Section 4.1, the first form of augmentation: random crops and horizontal flips.
    "no_crops": {"crops": False, "flip": False},
}
