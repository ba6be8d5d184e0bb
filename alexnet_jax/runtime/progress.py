"""A command's output: progress on standard error, its result on standard output."""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from alexnet_jax.runtime.errors import Failure


SECONDS_BETWEEN_LINES = 10.0
TIME_WIDTH = 7
# Clears the line and shows the cursor, which a progress bar hides.
CLEAN = b"\r\x1b[2K\x1b[?25h"


class _StandardError(io.TextIOBase):
    """Standard error as it is when it is written to; what it does not take is dropped.

    A full disk behind it, or a terminal that was closed, ends no training.
    """

    @property
    def _stream(self) -> io.TextIOBase | None:
        # Rich puts its own in the place of sys.stderr while it draws a bar.
        stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        return cast("io.TextIOBase | None", stream)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()


_standard_error = _StandardError()
# Names of files are shown as they are: `:dog:` is none of Rich's emoji.
console = Console(file=cast("TextIO", _standard_error), emoji=False)
# Its own: the other one may be quiet, or locked by a thread that hangs.
_errors = Console(file=cast("TextIO", _standard_error), emoji=False)


def shows_bars() -> bool:
    """Whether standard error is a terminal that a progress bar can be drawn on."""
    return console.is_terminal and not console.is_dumb_terminal


def counting(number: int, one: str, several: str | None = None) -> str:
    """`1 image`, `1,437 images`; a plural that doesn't end in s is given."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def per_second(rate: float, what: str = "") -> str:
    """`240/s`, `0.4 images/s`; empty where nothing is done yet."""
    shown = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
    return f"{shown}{what and f' {what}'}/s" if rate > 0 else ""


def leave_line() -> None:
    """Clear a progress bar that is cut off, before the process ends at once."""
    if shows_bars():
        # Not by the console: the thread that draws may hold its lock.
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), CLEAN)


def say(message: str) -> None:
    """Print one line to standard error, above a progress bar if there is one."""
    _print_line(console, message)


def complain(error: object) -> None:
    """Print the line that says why a command fails, in every process of several."""
    _print_line(_errors, f"error: {error}")


def _print_line(where: Console, line: str) -> None:
    # On a terminal it is broken between words; in a pipe it is one line.
    whole = not where.is_terminal
    where.print(line, highlight=False, markup=False, soft_wrap=whole)


def progress_bar(longest: str, total: int, note: int) -> Progress:
    """A bar with a count, the time left and a note; nothing is shown in a pipe.

    Args:
      longest: the longest description that it will have.
      total: the count that it runs to.
      note: about the length of a note, of parts that two spaces divide.
    """
    # In a narrow window the note loses its last parts first, then the bar is shorter.
    # Rich alone would take the same from every column.
    count = 2 * len(str(total)) + 1
    beside = count + TIME_WIDTH + 4
    bar = 16 if console.width >= len(longest) + 16 + beside + note else 4
    described = min(len(longest), console.width - bar - beside)
    room = max(1, console.width - described - bar - beside)

    def column(width: int) -> Column:
        return Column(
            no_wrap=True, overflow="ellipsis", min_width=width, max_width=width
        )

    return Progress(
        TextColumn("{task.description}", table_column=column(described)),
        BarColumn(bar_width=bar, table_column=column(bar)),
        MofNCompleteColumn(table_column=column(count)),
        TimeRemainingColumn(table_column=column(TIME_WIDTH)),
        _Note(room),
        console=console,
        disable=not shows_bars(),
    )


class _Note(ProgressColumn):
    """As many parts of a task's note as there is room for; two spaces divide them."""

    def __init__(self, room: int) -> None:
        super().__init__(Column(no_wrap=True, max_width=room))
        self._room = room

    def render(self, task: Task) -> Text:
        parts = str(task.fields["note"]).split("  ")
        while len("  ".join(parts)) > self._room:
            parts.pop()
        return Text("  ".join(parts))


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
    with progress_bar(description, total, note=8) as bar:
        task = bar.add_task(description, total=total, completed=completed, note="")

        def advance(count: int) -> None:
            nonlocal done, last_line
            done += count
            now = time.monotonic()
            # Of this run alone: what an earlier one did took none of its time.
            rate = done / max(now - begin, 1e-9)
            bar.update(task, advance=count, note=per_second(rate))
            if not shows_bars() and now - last_line > SECONDS_BETWEEN_LINES:
                last_line = now
                line = f"{description} {completed + done}/{total}"
                if done:
                    left = (total - completed - done) / rate
                    line += f"  {per_second(rate)}  {left:.0f} s left"
                say(line)

        yield advance


def print_result(result: Mapping[str, object]) -> None:
    """Print a command's result: one JSON object, the last line of standard output."""
    show(json.dumps(result))


def show(text: str) -> None:
    """Print to standard output, at once.

    Raises:
      BrokenPipeError: if its reader has ended, as `| head` does.
      Failure: if it can't be written.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(no_output(error)) from error


def no_output(error: OSError) -> str:
    """The message for a full disk behind standard output."""
    return f"standard output can't be written ({error.strerror})"
