"""Signals in a run."""

import os
import pty
import signal
import subprocess
import sys

import pytest

from alexnet_jax.runtime.errors import Interrupted
from alexnet_jax.runtime.signals import Interrupts


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


@pytest.fixture
def hangups_noticed():
    """SIGHUP as a terminal's programs have it, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGHUP, signal.SIGHUP),
        (signal.SIGUSR1, signal.SIGTERM),
        (signal.SIGUSR2,),
        (signal.SIGXCPU, signal.SIGXCPU, signal.SIGXCPU),
        (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM),
    ],
)
def test_what_schedulers_and_terminals_send_asks_to_stop(numbers, hangups_noticed):
    """Some send twice, and a scheduler a second signal while the run still saves."""
    with Interrupts() as interrupts:
        for number in numbers:
            signal.raise_signal(number)
    assert interrupts.received == numbers[0]
    with pytest.raises(Interrupted) as caught:
        interrupts.check()
    assert caught.value.exit_status == 128 + numbers[0]


def test_nohup_stays():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGHUP)
        assert interrupts.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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
