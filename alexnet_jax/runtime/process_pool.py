"""Work spread over processes, which end with this one however it ends."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from alexnet_jax.runtime.errors import InputError


SECONDS_BETWEEN_LOOKS = 0.1

Task = TypeVar("Task")
Result = TypeVar("Result")
Advance = Callable[[int], None]

# Of a worker process: how much was done, and whether to stop.
_done: Any = None
_stop: Any = None


def cores() -> int:
    """How many cores this process may use: of its affinity, and of its container's
    share where that is less."""
    # Not needed by those who only import the package.
    import joblib

    return joblib.cpu_count()


def spread(
    function: Callable[[Task, Advance], Result],
    tasks: Sequence[Task],
    *,
    processes: int,
    advance: Advance,
) -> Iterator[Result]:
    """Results of a function for every task, as they come.

    Args:
      function: takes a task and a function to be called with the number of things done.
      tasks: each is sent to a process.
      processes: with 1, the work is done here.
      advance: is called here with the number of things done since.

    Raises:
      InputError: if a process was killed; and what the function raises.
    """
    processes = min(processes, len(tasks))
    if processes <= 1:
        for task in tasks:
            yield function(task, advance)
        return
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(processes, context, _start, (done, stop))
    seen = 0
    try:
        pending = {pool.submit(_call, function, task) for task in tasks}
        while pending:
            finished, pending = wait(
                pending, SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED
            )
            seen, before = done.value, seen
            advance(seen - before)
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, for want of memory perhaps; give the same "
            "command again, with fewer --workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _start(done: Any, stop: Any) -> None:
    global _done, _stop
    _done, _stop = done, stop
    follow_parent()


def follow_parent() -> None:
    """To be called first in a worker: it stops when the main process says so or ends,
    however it ends."""
    # Ctrl-C reaches every process of a terminal; when to stop is the main one's word.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(function: Callable[[Task, Advance], Result], task: Task) -> Result:
    return function(task, _advance)


def _advance(count: int) -> None:
    with _done.get_lock():
        _done.value += count
    if _stop.is_set():
        raise KeyboardInterrupt
