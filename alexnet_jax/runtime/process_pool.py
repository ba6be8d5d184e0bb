"""Work spread over worker processes, which never outlive the main process.

multiprocessing.Pool waits forever for a worker that was killed. An executor alone
reports no progress within a task, and leaves its workers when the main process is
killed.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, TypeVar

from alexnet_jax.runtime import signals
from alexnet_jax.runtime.errors import InputError


if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event


SECONDS_BETWEEN_UPDATES = 0.1

Task = TypeVar("Task")
Result = TypeVar("Result")
Advance = Callable[[int], None]

# In a worker process: the count shared by all of them, and the event to stop.
_done: "Synchronized[int]"
_stop: "Event"


def cores() -> int:
    """How many cores this process may use: those of its CPU affinity, or fewer where
    its container has a smaller quota."""
    # Imported here because importing the package must stay fast.
    import joblib

    return joblib.cpu_count()


def spread(
    function: Callable[[Task, Advance], Result],
    tasks: Sequence[Task],
    *,
    processes: int,
    advance: Advance,
) -> Iterator[Result]:
    """Run a function on every task, in several processes.

    Args:
      function: takes a task, and a function that it calls with the number of items
        just done. Both it and the tasks are pickled.
      tasks: the work.
      processes: how many at most; with 1 the work is done in this process.
      advance: called in this process with the number of items done since its last call.

    Yields:
      The results, in the order in which the tasks end.

    Raises:
      InputError: if a worker was killed. What the function raises is raised here.
    """
    processes = min(processes, len(tasks))
    if processes <= 1:
        for task in tasks:
            yield function(task, advance)
        return
    # Not fork: it copies locks that threads of JAX or Rich may be holding.
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(processes, context, _start, (done, stop))
    seen = 0
    try:
        # `_advance` is pickled by its name, and so means that of the worker.
        pending = {pool.submit(function, task, _advance) for task in tasks}
        while pending:
            finished, pending = wait(
                pending, SECONDS_BETWEEN_UPDATES, return_when=FIRST_COMPLETED
            )
            seen, before = done.value, seen
            advance(seen - before)
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, possibly for lack of memory; give the same "
            "command again with fewer --workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _start(done: "Synchronized[int]", stop: "Event") -> None:
    global _done, _stop
    _done, _stop = done, stop
    follow_parent()


def follow_parent() -> None:
    """To be called first in a worker: it ends when the main process ends."""
    signals.ignore()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _advance(count: int) -> None:
    """In a worker: add to the shared count, and stop between two items if asked to."""
    with _done.get_lock():
        _done.value += count
    if _stop.is_set():
        raise KeyboardInterrupt
