"""Prefetches batches with Grain; a stalled or dead worker becomes a one-line error."""

import multiprocessing
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

import absl.flags
import grain

from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.runtime import open_files
from alexnet_jax.runtime.errors import DataStalled, Failure, InputError
from alexnet_jax.runtime.process_pool import (
    NO_THREADS,
    check_startable,
    cores,
    follow_parent,
)


# Batches made at once: the next batch keeps the threads busy while the last one ends.
BATCHES_AT_ONCE = 2
# Batches made ahead, where the pipeline sets no number.
BUFFER = 2
SHARED_MEMORY = Path("/dev/shm")
# Open files of a training, and of each worker's pipes and shared memory in it: 33, and
# 30 for each, were counted.
FILES_ALONE, FILES_OF_A_WORKER = 48, 32
# Of a worker, beside its process, those that read examples and those that NumPy starts
# for the other cores: 5 were counted.
THREADS_OF_A_WORKER = 6
WITHOUT_WORKERS = (
    "use threads alone with --config.data.workers=0 (of `evaluate` --workers=0)"
)


@contextmanager
def read(
    pipeline: Pipeline, dataset: grain.MapDataset, start: int = 0
) -> Iterator[Iterator[HostBatch]]:
    """Iterate over the batches from `start`, made ahead by threads or workers.

    Raises:
      DataStalled: if a batch does not arrive in time.
      Failure: if a worker has died.
      InputError: if there is too little shared memory for the workers, or they may not
        open enough files or start enough threads.
    """
    buffer = pipeline.buffer or BUFFER
    options = grain.ReadOptions(min(BATCHES_AT_ONCE, buffer), buffer)
    made = dataset[start:].to_iter_dataset(options)
    if pipeline.workers:
        _check_shared_memory(pipeline, dataset)
        _check_open_files(pipeline.workers)
        needed = threads_needed(pipeline.workers, pipeline.threads_each)
        check_startable(needed, f"data.workers={pipeline.workers}", WITHOUT_WORKERS)
        _start_resource_tracker()
        # Grain reads an absl flag, and in a notebook nothing has parsed the flags.
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
        # Closing would wait for what hangs. A hanging worker can still be killed.
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
    """An iterator that raises where the next batch does not arrive in time."""

    def __init__(self, iterator: Iterator[HostBatch], pipeline: Pipeline) -> None:
        self._iterator = iterator
        # Longer than `batching` waits, whose error names what is being read. A worker
        # may need as long again to start.
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
                f"no batch within {self._seconds:g} s, twice data.timeout: {who}; "
                "check the disk and the memory, and give the same command again"
            ) from error
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            found = re.search(r"exit code (-?\d+)", str(error))
            status = found[1] if found else "?"
            cause = {
                "-9": "; often a lack of memory",
                str(
                    NO_THREADS
                ): "; often a limit on processes and threads, as `ulimit -u`",
            }.get(status, "")
            raise Failure(
                f"a worker that reads the data has died (exit code {status}{cause}); "
                "give the same command again, with fewer --config.data.workers (of "
                "`evaluate` --workers) if need be"
            ) from error


def _check_shared_memory(pipeline: Pipeline, dataset: grain.MapDataset) -> None:
    """Raise an InputError if shared memory is too small for the workers' batches."""
    if not SHARED_MEMORY.is_dir():
        return
    batch = dataset[0]
    assert batch is not None
    size = sum(array.nbytes for array in batch.values())
    # For each worker a batch that waits, one being written, one being copied out.
    needed = 3 * size * pipeline.workers
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise InputError(
            f"data.workers={pipeline.workers} needs {needed >> 20} MiB of shared "
            f"memory, and {SHARED_MEMORY} has {free >> 20} free; enlarge it (docker "
            f"run --shm-size), or {WITHOUT_WORKERS}"
        )


def _check_open_files(workers: int) -> None:
    """Raise an InputError if this process may not open enough files for the workers."""
    needed = FILES_ALONE + FILES_OF_A_WORKER * workers
    allowed = open_files.allow(needed)
    if allowed < needed:
        raise InputError(
            f"data.workers={workers} needs {needed} open files, and {allowed} are "
            f"allowed here; `ulimit -n 1024` may allow more, or {WITHOUT_WORKERS}"
        )


def threads_needed(workers: int, threads_each: int) -> int:
    """How many processes and threads so many workers are, with their threads."""
    return workers * (1 + THREADS_OF_A_WORKER + threads_each + cores() - 1)


def _start_resource_tracker() -> None:
    """Start Python's process that removes what is left of shared memory, without the
    warning that there was some: batches that were made ahead and not needed."""
    before = list(sys.warnoptions)
    sys.warnoptions.append("ignore:resource_tracker")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions[:] = before


def _start_worker(*_: int) -> None:
    follow_parent()
