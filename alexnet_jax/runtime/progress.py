"""What a command tells: progress on standard error, its result on standard output."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
    """One line to standard error, above a progress bar if there is one."""
    console.print(message, highlight=False, markup=False, soft_wrap=True)


def progress_bar() -> Progress:
    """A bar for work that is counted, with rate and time left; none in a pipe."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=BAR_WIDTH),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=COUNT_WIDTH)),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=TIME_WIDTH)),
        # In a narrow window this is what is cut off.
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
    """Progress of counted work, with rate and time left.

    A bar on a terminal, a line every ten seconds in a pipe.

    Args:
      description: what is done.
      total: how many there are to do.
      completed: how many were done before.

    Yields:
      A function to be called with the number of things done since.
    """
    begin = said = time.monotonic()
    done = 0
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, completed=completed, note="")

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            now = time.monotonic()
            rate = done / max(now - begin, 1e-9)
            bar.update(task, advance=count, note=f"{rate:.0f}/s")
            if not console.is_terminal and now - said > SECONDS_BETWEEN_LINES:
                said = now
                left = (total - completed - done) / max(rate, 1e-9)
                say(
                    f"{description} {completed + done}/{total}  {rate:.0f}/s  "
                    f"{left:.0f} s left"
                )

        yield advance


def print_result(result: dict[str, Any]) -> None:
    """A command's result: one JSON object, the last line of standard output."""
    print(json.dumps(result), file=sys.stdout, flush=True)
