"""Batches made ahead by Grain's threads and workers, and watched: what does not come in
time, or has lost its worker, is an error in one line."""

import multiprocessing
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import absl.flags
import grain

from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.runtime.errors import DataStalled, Failure, InputError
from alexnet_jax.runtime.process_pool import follow_parent


# Batches in the making at once: the next one fills the threads at the end of the last.
BATCHES_AT_ONCE = 2
SHARED_MEMORY = Path("/dev/shm")


@contextmanager
def read(
    pipeline: Pipeline, dataset: grain.MapDataset, start: int = 0
) -> Iterator[Iterator[HostBatch]]:
    """Iterate over batches from `start` on, made ahead by threads or workers.

    Raises:
      DataStalled: if a batch does not come in time.
      Failure: if a worker has died.
    """
    options = grain.ReadOptions(min(BATCHES_AT_ONCE, pipeline.buffer), pipeline.buffer)
    made = dataset[start:].to_iter_dataset(options)
    if pipeline.workers:
        _check_shared_memory(pipeline, dataset)
        # Grain reads a flag of its own, which nobody has parsed in a notebook.
        if not absl.flags.FLAGS.is_parsed():
            absl.flags.FLAGS.mark_as_parsed()
        made = made.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=pipeline.workers), _start_worker
        )
    iterator = iter(made)
    watched = _Watched(iterator, pipeline)
    try:
        yield watched
    except DataStalled:
        # Closing would wait for what hangs. Workers that are stopped can be killed.
        for worker in multiprocessing.active_children():
            worker.kill()
        raise
    except BaseException:
        iterator.close()
        raise
    else:
        iterator.close()
    finally:
        watched.thread.shutdown(wait=False)


class _Watched(Iterator[HostBatch]):
    """An iterator whose next batch comes in time, or an error does."""

    def __init__(self, iterator: Iterator[HostBatch], pipeline: Pipeline) -> None:
        self._iterator = iterator
        # A batch has a time of its own, and says what it was reading. A worker may
        # need as long again to come into being.
        self._seconds = 2 * pipeline.timeout
        self._workers = pipeline.workers
        self.thread = ThreadPoolExecutor(1, "next batch")

    def __next__(self) -> HostBatch:
        coming = self.thread.submit(next, self._iterator)
        try:
            return coming.result(self._seconds)
        except TimeoutError as error:
            if coming.done():
                raise
            who = "a worker hangs" if self._workers else "the source hangs"
            raise DataStalled(
                f"no batch within {self._seconds:g} s, twice data.timeout: {who}; see "
                "to the disk and the memory, and give the same command again"
            ) from error
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            status = re.search(r"exit code (-?\d+)", str(error))
            raise Failure(
                f"a worker that reads the data was ended (exit code "
                f"{status[1] if status else '?'}; -9 is often a lack of memory); give "
                "the same command again, with fewer --config.data.workers if need be"
            ) from error


def _check_shared_memory(pipeline: Pipeline, dataset: grain.MapDataset) -> None:
    """Raise an InputError if the workers' batches have no room on their way here."""
    if not SHARED_MEMORY.is_dir():
        return
    batch: Any = dataset[0]
    one = sum(array.nbytes for array in batch.values())
    # Of each worker: one that is waiting, one that is written, one that is copied out.
    needed = 3 * one * pipeline.workers
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise InputError(
            f"data.workers={pipeline.workers} needs {needed >> 20} MiB of shared "
            f"memory, and {SHARED_MEMORY} has {free >> 20} free; enlarge it (docker "
            "run --shm-size), or use threads alone with --config.data.workers=0"
        )


def _start_worker(*_: int) -> None:
    follow_parent()
