"""Grain: sources to host batches, host batches to sharded arrays.

An example is decided by the record, its index and the seed, and a batch by the step:
how many threads, workers or processes read, and where a run was interrupted, changes
nothing. So the step is the whole state of the data, and nothing of Grain is saved.
"""

import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import absl.flags
import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float

from alexnet_jax import augment, moments
from alexnet_jax.dataset import Dataset, Example, Source
from alexnet_jax.errors import InputError
from alexnet_jax.mesh import EXAMPLES
from alexnet_jax.moments import Statistics
from alexnet_jax.sources import open_dataset


HostBatch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """An open data set and how it is read. Made by `open_pipeline`."""

    dataset: Dataset
    crop: int
    crops: bool
    flip: bool
    threads: int
    workers: int
    buffer: int


def open_pipeline(
    *,
    source: str = "prepared",
    path: str | None = None,
    size: int = 256,
    validation_fraction: float = 0.1,
    crop: int = 224,
    crops: bool = True,
    flip: bool = True,
    threads: int | None = None,
    workers: int = 0,
    buffer: int | None = None,
) -> Pipeline:
    """Open a data set for training and evaluation.

    Args:
      source, path, size, validation_fraction: see `sources.open_dataset`.
      crop: side of the square the network sees, in pixels.
      crops: whether training crops are random; if not, the centre.
      flip: whether training crops are mirrored at random.
      threads: that read and decode; None takes one for each core. A matter of speed
        only, as are the next two.
      workers: processes that read and decode, each with its own threads; 0 for none.
      buffer: batches made ahead; None takes two more than threads.

    Raises:
      InputError: if the data set can't be opened or a number is out of range.
    """
    dataset = open_dataset(
        source=source, path=path, size=size, validation_fraction=validation_fraction
    )
    if not 0 < crop <= dataset.size:
        raise InputError(
            f"data.crop={crop} must lie between 1 and the stored pictures' side of "
            f"{dataset.size}"
        )
    for name, value in (("threads", threads), ("workers", workers), ("buffer", buffer)):
        if value is not None and value < 0:
            raise InputError(f"data.{name}={value} must not be negative")
    threads = threads or os.cpu_count() or 1
    return Pipeline(
        dataset=dataset,
        crop=crop,
        crops=crops,
        flip=flip,
        threads=threads,
        workers=workers,
        buffer=buffer or threads + 2,
    )


def measure_statistics(pipeline: Pipeline, advance=lambda: None) -> Statistics:
    """Mean picture and colour PCA of the training pictures, read once."""
    source = pipeline.dataset.splits["train"]
    pictures = (
        grain.MapDataset.source(source)
        .map(lambda example: example["image"])
        .to_iter_dataset(grain.ReadOptions(pipeline.threads, 16 * pipeline.threads))
    )
    with closing(pictures) as iterator:
        return moments.measure(iterator, pipeline.dataset.size, advance)


def mean_crop(statistics: Statistics, crop: int) -> Float[np.ndarray, "crop crop 3"]:
    """The mean picture's centre, which is subtracted from every crop.

    As in the 2012 code, wherever the crop was cut.
    """
    start = (statistics.mean.shape[0] - crop) // 2
    return statistics.mean[start : start + crop, start : start + crop]


def train_dataset(
    pipeline: Pipeline,
    statistics: Statistics,
    *,
    batch_size: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
) -> grain.MapDataset:
    """This process's share of every training batch, by step.

    Batches run on over the borders of epochs, and each epoch has its own order. The
    split among processes comes after the random draws, so that no two processes see the
    same crops.
    """
    view = functools.partial(
        _train_example,
        crop=pipeline.crop,
        crops=pipeline.crops,
        flip=pipeline.flip,
        deviations=statistics.deviations,
        directions=statistics.directions,
    )
    source = pipeline.dataset.splits["train"]
    # As good as without end; `repeat(None)` overflows with batches of one.
    epochs = sys.maxsize // (2 * len(source))
    order, draws = np.random.SeedSequence(seed).generate_state(2)
    return (
        grain.MapDataset.source(source)
        .shuffle(seed=int(order))
        .repeat(epochs)
        .random_map(view, seed=int(draws))
        .batch(batch_size // processes)[process::processes]
    )


def evaluation_dataset(
    pipeline: Pipeline,
    split: str,
    *,
    batch_size: int,
    process: int = 0,
    processes: int = 1,
) -> grain.MapDataset:
    """This process's share of every batch of a split, each example exactly once.

    Every process has as many batches; examples past the end are padding, with a false
    `mask`.
    """
    if split not in pipeline.dataset.splits:
        raise InputError(
            f"no split {split!r}; choose from {', '.join(pipeline.dataset.splits)}"
        )
    source = pipeline.dataset.splits[split]
    batches = -(-len(source) // batch_size)
    example = functools.partial(
        _evaluation_example, source=source, size=pipeline.dataset.size
    )
    return (
        grain.MapDataset.range(batches * batch_size)
        .map(example)
        .batch(batch_size // processes)[process::processes]
    )


def _train_example(
    example: Example, rng: np.random.Generator, **settings: Any
) -> HostBatch:
    colours = {name: settings.pop(name) for name in ("deviations", "directions")}
    return {
        "image": augment.random_view(example["image"], rng, **settings),
        "label": np.asarray(example["label"], np.int32),
        "colour_shift": augment.colour_shift(rng, **colours),
    }


def _evaluation_example(index: int, *, source: Source, size: int) -> HostBatch:
    padding = index >= len(source)
    example = None if padding else source[index]
    image = np.zeros((size, size, 3), np.uint8) if example is None else example["image"]
    label = 0 if example is None else example["label"]
    return {
        "image": image,
        "label": np.asarray(label, np.int32),
        "mask": np.asarray(not padding),
    }


@contextmanager
def read(
    pipeline: Pipeline, dataset: grain.MapDataset, start: int = 0
) -> Iterator[Iterator[HostBatch]]:
    """Iterate over batches from `start` on, made ahead by threads or workers."""
    options = grain.ReadOptions(pipeline.threads, pipeline.buffer)
    batches = dataset[start:].to_iter_dataset(options)
    if pipeline.workers:
        # Grain reads a flag of its own, which nobody has parsed in a notebook.
        if not absl.flags.FLAGS.is_parsed():
            absl.flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=pipeline.workers), _start_worker
        )
    with closing(batches) as iterator:
        yield iterator


def _start_worker(*_: int) -> None:
    # Ctrl-C reaches every process of a terminal; when to stop is the main one's word.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def closing(dataset: grain.IterDataset) -> Iterator[Iterator[Any]]:
    """An iterator whose threads and processes end with the block."""
    iterator = iter(dataset)
    try:
        yield iterator
    finally:
        iterator.close()


def to_devices(batch: HostBatch, mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch, as a global array split over examples."""
    place = NamedSharding(mesh, EXAMPLES)
    return {
        name: jax.make_array_from_process_local_data(place, array)
        for name, array in batch.items()
    }
