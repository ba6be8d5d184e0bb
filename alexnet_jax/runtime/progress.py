"""A command's output: progress on standard error, its result on standard output."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column


SECONDS_BETWEEN_LINES = 10.0
BAR_WIDTH, COUNT_WIDTH, TIME_WIDTH = 16, 9, 7

console = Console(stderr=True)


def say(message: str) -> None:
    """Print one line to standard error, above a progress bar if there is one."""
    console.print(message, highlight=False, markup=False, soft_wrap=True)


def progress_bar() -> Progress:
    """A bar with a count, a note and the time left; nothing is shown in a pipe."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=BAR_WIDTH),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=COUNT_WIDTH)),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=TIME_WIDTH)),
        # Last, so that a narrow window cuts off the note and not the count.
        TextColumn(
            "{task.fields[note]}",
            table_column=Column(no_wrap=True, overflow="ellipsis"),
        ),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def counted(
    description: str, total: int, completed: int = 0
) -> Iterator[Callable[[int], None]]:
    """Show the progress of `total` items, with rate and time left.

    A bar on a terminal, a line every ten seconds in a pipe. `completed` items were
    done by an earlier run.

    Yields:
      A function to be called with the number of items just done.
    """
    begin = last_line = time.monotonic()
    done = 0
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, completed=completed, note="")

        def advance(count: int) -> None:
            nonlocal done, last_line
            done += count
            now = time.monotonic()
            # Of this run alone: what an earlier one did took none of its time.
            rate = done / max(now - begin, 1e-9)
            bar.update(task, advance=count, note=f"{rate:.0f}/s")
            if not console.is_terminal and now - last_line > SECONDS_BETWEEN_LINES:
                last_line = now
                left = (total - completed - done) / max(rate, 1e-9)
                say(
                    f"{description} {completed + done}/{total}  {rate:.0f}/s  "
                    f"{left:.0f} s left"
                )

        yield advance


def print_result(result: Mapping[str, object]) -> None:
    """Print a command's result: one JSON object, the last line of standard output."""
    print(json.dumps(result), file=sys.stdout, flush=True)
