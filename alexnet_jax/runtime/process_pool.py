"""Work spread over worker processes, which never outlive the main process.

multiprocessing.Pool waits forever for a worker that was killed. An executor alone
reports no progress within a task, and leaves its workers when the main process is
killed.
"""

import ast
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import spawn
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from alexnet_jax.runtime import library_warnings, progress, signals
from alexnet_jax.runtime.errors import Failure, InputError, is_no_threads


if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event


SECONDS_BETWEEN_UPDATES = 0.1
# The exit status of a worker that can't start its threads.
NO_THREADS = 70

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


def check_startable(needed: int, what: str, otherwise: str = "") -> None:
    """Check that so many more processes and threads can start.

    Args:
      needed: how many, of all kinds.
      what: what needs them, for the message.
      otherwise: what else can be done than to raise the limit, if anything.

    Raises:
      InputError: if a limit of the user, a container or a job is below that.
    """
    possible = _startable(needed)
    if possible < needed:
        raise InputError(
            f"{what} needs {needed} more processes and threads, and the system allows "
            f"{possible}; raise the limit of the user (`ulimit -u`), the container or "
            f"the job{otherwise and f', or {otherwise}'}"
        )


def _startable(count: int) -> int:
    """How many of so many threads can start and run at once: all, or fewer where the
    user, a container or a job has a limit on processes and threads."""
    end = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError as error:
        if not is_no_threads(error):
            raise
    finally:
        end.set()
        for thread in threads:
            thread.join()
    return len(threads)


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
      InputError: if workers can't start from this program (see `check_main`).
      Failure: if a worker was killed. What the function raises is raised here.
    """
    processes = min(processes, len(tasks))
    if processes > 1:
        check_main("workers=1")
        processes = _allowed(processes)
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
        with without_interrupts():
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
        raise Failure(
            "a worker process was killed, possibly for lack of memory or by a limit on "
            "processes; give the same command again with fewer --workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _allowed(processes: int) -> int:
    """As many of so many processes as can start with their threads, or one, for which
    none is started; fewer are said."""
    # Each has its main thread, one that waits for the parent, and those that NumPy
    # starts for the other cores. Beside them are Python's process that removes
    # semaphores, and two threads of this process.
    each, beside = 1 + cores(), 3
    possible = _startable(beside + each * processes)
    if possible == beside + each * processes:
        return processes
    fewer = max(1, (possible - beside) // each)
    progress.say(
        f"warning: the system allows {possible} more processes and threads, so "
        f"{progress.counting(fewer, 'process', 'processes')} and not {processes} "
        f"{'does' if fewer == 1 else 'do'} the work"
    )
    return fewer


def check_main(key: str) -> None:
    """Check that worker processes can start from the program that runs.

    A worker first runs the program's file again, as far as its main guard, which a file
    may lack and standard input is not.

    Args:
      key: the setting without workers, as `data.workers=0`.

    Raises:
      InputError: if the file would come to this call again, or there is no file.
    """
    again = spawn.get_preparation_data("worker")
    if not {"init_main_from_path", "init_main_from_name"} & set(again):
        # A notebook, or `python -c`: a worker runs nothing again.
        return
    program = vars(sys.modules["__main__"])
    path = Path(program.get("__file__") or "")
    if not path.is_file():
        raise InputError(
            "worker processes can't start from a program on standard input, since each "
            f"of them runs its file; save it in a file, or set {key}"
        )
    line = _line_of(program)
    if line is not None and not _is_guarded(path, line):
        raise InputError(
            f"{path}, line {line}: each worker process runs this file again and comes "
            f'to this line; put it under `if __name__ == "__main__":`, or set {key}'
        )


def _line_of(program: Mapping[str, object]) -> int | None:
    """The line outside all functions at which a program's file is; `program` holds its
    names. None in a thread that it started."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals is program and frame.f_code.co_name == "<module>":
            return frame.f_lineno
        frame = frame.f_back
    return None


def _is_guarded(path: Path, line: int) -> bool:
    """Whether a line stands under a condition on `__name__`, or on the process."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError):
        # Not Python's source.
        return True
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp):
            condition = node.test
        elif isinstance(node, ast.BoolOp):
            condition = node.values[0]
        else:
            continue
        if node.lineno <= line <= (node.end_lineno or line) and (
            {"__name__", "parent_process"} & _names(condition)
        ):
            return True
    return False


def _names(expression: ast.expr) -> set[str]:
    names = {n.id for n in ast.walk(expression) if isinstance(n, ast.Name)}
    return names | {
        n.attr for n in ast.walk(expression) if isinstance(n, ast.Attribute)
    }


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Worker processes that are started inside the block never see Ctrl-C, which would
    end them with a traceback while they import. This process gets it at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(done: "Synchronized[int]", stop: "Event") -> None:
    global _done, _stop
    _done, _stop = done, stop
    follow_parent()


def follow_parent() -> None:
    """To be called first in a worker: it ends when the main process ends, or when it
    can't start a thread."""
    _end_without_threads()
    signals.ignore()
    library_warnings.silence()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_without_threads() -> None:
    """A worker ends with the exit status NO_THREADS where Python can't start a thread.

    The thread that sends what it makes may be among them; then it would wait for ever,
    and its error would not be sent.
    """
    start = threading.Thread.start

    def start_or_end(thread: threading.Thread) -> None:
        try:
            start(thread)
        except RuntimeError as error:
            if not is_no_threads(error):
                raise
            os._exit(NO_THREADS)

    threading.Thread.start = start_or_end  # type: ignore[method-assign]


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
