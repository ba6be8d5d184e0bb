"""What a command shows while it works."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from alexnet_jax.runtime import progress


DRAWING = """
from alexnet_jax.runtime import progress
with progress.progress_bar("validating", 600000, note=50) as bar:
    task = bar.add_task("compiling", total=600000, note="")
    note = "epoch 1.25  loss 2.324  error 75.0%  1304 images/s"
    bar.update(task, description="validating", completed=7000, note=note)
progress.say("done")
"""


def drawn(columns, program=DRAWING, **variables):
    """The lines that a program draws in a terminal so wide, the last of a bar alone."""
    master, slave = pty.openpty()
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    subprocess.run(
        [sys.executable, "-c", program],
        stderr=slave,
        check=True,
        env={**kept, "TERM": "xterm", **variables},
    )
    os.close(slave)
    with os.fdopen(master, "rb", buffering=0) as screen:
        shown = screen.read(65536).decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    return [line.rpartition("\r")[2] for line in plain.split("\r\n")[:-1]], shown


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_bar_keeps_what_it_does_its_count_and_its_time(columns):
    (bar, done), _ = drawn(columns)
    assert bar.startswith("validating ")
    assert "  7000/600000 " in bar
    assert "-:--:--" in bar
    assert len(bar) <= columns
    # Parts of the note are whole or left out.
    assert "…" not in bar
    assert ("error 75.0%" in bar) == (columns > 40)
    assert ("1304 images/s" in bar) == (columns == 120)
    assert done == "done"


def test_lines_are_broken_between_words_on_a_terminal_alone():
    long = "a line of words that is longer than what forty columns have room for"
    program = f"from alexnet_jax.runtime.progress import *; say({long!r}); complain(1)"
    lines, _ = drawn(40, program)
    assert lines == [long[:40], long[41:], "error: 1"]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "40"},
    )
    assert done.stderr == f"{long}\nerror: 1\n"


def test_no_colour_and_no_bar_where_the_terminal_can_not():
    (bar, _), shown = drawn(80, NO_COLOR="1")
    assert "validating" in bar
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown)
    lines, shown = drawn(80, TERM="dumb")
    assert lines == ["done"]
    assert "\x1b" not in shown


def test_names_are_shown_as_they_are(capsys):
    progress.say("[red]a[/red]/:dog:/x.jpg")
    progress.complain("[red]a[/red]/:dog:/x.jpg")
    shown = "[red]a[/red]/:dog:/x.jpg\n"
    assert capsys.readouterr().err == f"{shown}error: {shown}"


def test_a_terminal_that_was_closed_stops_nothing(monkeypatch):
    master, slave = pty.openpty()
    closed = os.fdopen(slave, "w", closefd=False)
    os.close(master)
    monkeypatch.setattr("sys.stderr", closed)
    with pytest.raises(OSError):
        print("nobody sees this", file=closed, flush=True)
    with progress.counted("reading", 2) as advance:
        advance(2)
    progress.say("done")
    monkeypatch.setattr("sys.stderr", None)
    progress.say("done")
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), slave)
    closed.close()
    os.close(slave)


def test_numbers_of_things():
    assert progress.counting(1, "image") == "1 image"
    assert progress.counting(0, "image") == "0 images"
    assert progress.counting(1437, "class", "classes") == "1,437 classes"
    assert progress.per_second(0, "images") == ""
    assert progress.per_second(0.03) == "0.03/s"
    assert progress.per_second(9.96, "images") == "10 images/s"
    assert progress.per_second(1234.5, "images") == "1234 images/s"


def test_no_time_left_is_said_before_anything_is_done(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    with progress.counted("preparing", 9) as advance:
        advance(0)
        advance(3)
    before, after = capsys.readouterr().err.splitlines()
    assert before == "preparing 0/9"
    assert after.startswith("preparing 3/9  ") and after.endswith(" s left")
