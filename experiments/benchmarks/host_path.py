"""What one image costs this project's pipeline in CPU time, and how it scales.

Threads share the interpreter's lock, so the Python part of an image, times the images,
is the least time that any number of cores takes. It is measured as the same images,
stored at 8 pixels a side, in one thread: all of the work but that on pixels. Of the
work on pixels one copy holds the lock as well, that of a record's bytes by ArrayRecord.
Reading, checking, decoding and NumPy's copies release it.
"""

import os
import time

import numpy as np

from alexnet_jax.data.loading import grain_datasets, pipeline, prefetch
from alexnet_jax.data.prepared import record
from alexnet_jax.data.prepared.preparation import prepare


SMALL, SMALL_CROP = 8, 7
BATCH = 128


def make_small(originals, work, form):
    """The same images at 8 pixels a side; gives the folder."""
    folder = work / f"{form}{SMALL}"
    if not folder.exists():
        prepare(
            source="folder",
            input_path=str(originals),
            output=folder,
            encoding=form,
            size=SMALL,
        )
    return folder


def opened(folder, **settings):
    """The batches of a prepared set, and how it is read."""
    read = pipeline.open_pipeline(path=str(folder), **settings)
    statistics = read.dataset.statistics
    assert statistics is not None
    return read, grain_datasets.train_dataset(
        read, statistics, batch_size=BATCH, seed=0
    )


def cpu_of_batches(folder, count, **settings):
    """Microseconds of this process's CPU an image of the first `count` batches."""
    _, batches = opened(folder, threads=1, **settings)
    assert batches[0] is not None
    begin = time.process_time()
    for number in range(count):
        batches[number]
    return 1e6 * (time.process_time() - begin) / (count * BATCH)


def cpu_of_copy(folder):
    """Microseconds of CPU that a copy of an encoded image takes, under the lock."""
    source = pipeline.open_pipeline(path=str(folder)).dataset.splits["train"]
    assert isinstance(source, record.PreparedSource)
    image = bytearray(record.unpack(source._records[0]).image)
    count = 2000
    begin = time.process_time()
    for _ in range(count):
        bytes(image)
    return 1e6 * (time.process_time() - begin) / count


def costs(form, originals, work, count, rounds):
    """The least of several rounds of each cost, in microseconds an image."""
    small = make_small(originals, work, form)
    sides = {
        "python": lambda: cpu_of_batches(small, count, crop=SMALL_CROP),
        "copy": lambda: cpu_of_copy(work / form),
        "whole": lambda: cpu_of_batches(work / form, count),
    }
    measured = [{name: side() for name, side in sides.items()} for _ in range(rounds)]
    # Another process on a core slows one down, and nothing makes one faster.
    least = {name: min(entry[name] for entry in measured) for name in sides}
    least["under_the_lock"] = least["python"] + least["copy"]
    return {**least, "rounds": measured}


def rate(folder, count, threads, workers):
    """Images a second of `count` batches, without the first."""
    read, batches = opened(folder, threads=threads, workers=workers)
    with prefetch.read(read, batches) as iterator:
        next(iterator)
        begin = time.perf_counter()
        for _ in range(count):
            next(iterator)
        return count * BATCH / (time.perf_counter() - begin)


def sweep(folder, count, rounds):
    """Median images a second by workers and threads of each, up to the cores."""
    cores = len(os.sched_getaffinity(0))
    powers = [2**n for n in range(cores.bit_length()) if 2**n <= cores]
    sides = [(workers, each) for workers in (0, *powers) for each in powers]
    sides = [(w, each) for w, each in sides if max(1, w) * each <= cores]
    rates = {side: [] for side in sides}
    for _ in range(rounds):
        for workers, each in sides:
            rates[workers, each].append(rate(folder, count, each, workers))
    return [
        {"workers": w, "threads": each, "rate": float(np.median(found))}
        for (w, each), found in rates.items()
    ]
