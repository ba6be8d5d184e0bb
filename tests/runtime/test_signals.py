"""Ctrl-C and SIGTERM in a run."""

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
