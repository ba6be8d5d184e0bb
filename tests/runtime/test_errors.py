"""How commands end."""

import subprocess
import sys

import pytest


PROGRAM = """
import os, signal, sys
from alexnet_jax import errors

class Lost(errors.Failure):
    abrupt = True

# Where the tests run in the background of a shell it would be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def main():
    {body}

try:
    errors.exit_with(main)
finally:
    print("left in order", flush=True)
"""


@pytest.mark.parametrize(
    ("body", "status", "told", "in_order"),
    [
        ("pass", 0, "", True),
        ("raise errors.InputError('no such thing')", 2, "error: no such thing\n", True),
        ("raise errors.Failure('it broke')", 1, "error: it broke\n", True),
        ("raise Lost('it hangs')", 1, "error: it hangs\n", False),
        ("raise OSError(28, 'No space left')", 1, "error: [Errno 28] No space", True),
        ("os.kill(os.getpid(), signal.SIGTERM); signal.pause()", 143, "", True),
        ("os.kill(os.getpid(), signal.SIGINT); signal.pause()", 130, "", True),
    ],
)
def test_status_and_one_line(body, status, told, in_order):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == bool(told)
    assert bool(done.stdout) == in_order


TWICE = """
import os, signal, time
from alexnet_jax.interrupt import Interrupts

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


@pytest.mark.parametrize(
    ("message", "told"), [("Event loop is closed", False), ("anything else", True)]
)
def test_of_what_cannot_be_raised_only_the_echo_of_a_failed_save_is_unheard(
    message, told
):
    body = f"""
    class Dropped:
        def __del__(self):
            raise RuntimeError({message!r})
    Dropped()
"""
    program = PROGRAM.format(body=body.strip())
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert (message in done.stderr) == told
