"""Ctrl-C and SIGTERM in a run."""

import os
import pty
import subprocess
import sys


TWICE = """
import os, signal, time
from alexnet_jax.runtime.signals import Interrupts

with Interrupts() as interrupts:
    os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts.received == signal.SIGTERM
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("and still", flush=True)
"""


def test_a_second_signal_ends_the_process_at_once():
    done = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "still here\n"
    assert done.returncode == 130


DRAWING = """
import os, signal
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.signals import Interrupts

with Interrupts(), progress.counted("counting", 10) as advance:
    advance(3)
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_second_signal_leaves_the_cursor_and_the_line_clean():
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    with os.fdopen(master, "rb", buffering=0) as screen:
        done = subprocess.run(
            [sys.executable, "-c", DRAWING],
            stderr=slave,
            timeout=60,
            env=environment,
        )
        os.close(slave)
        shown = b""
        # Where the other side is closed, reading fails.
        while part := _read(screen):
            shown += part
    assert done.returncode == 130
    assert b"counting" in shown
    hidden, restored = shown.rfind(b"\x1b[?25l"), shown.rfind(b"\x1b[?25h")
    assert 0 <= hidden < restored
    # Nothing is drawn behind the cleared line.
    assert shown.rpartition(b"\x1b[2K")[2] == b"\x1b[?25h"


def _read(file):
    try:
        return file.read(65536)
    except OSError:
        return b""
