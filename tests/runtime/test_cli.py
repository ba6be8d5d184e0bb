"""How commands end: their exit status, and one line on standard error."""

import os
import subprocess
import sys

import pytest


PROGRAM = """
import os, signal, sys
from alexnet_jax.runtime import cli, errors

class Lost(errors.Failure):
    abrupt = True

# Where the tests run in the background of a shell it would be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def main():
    {body}

try:
    cli.run_command(main)
finally:
    print("left in order", flush=True)
"""


@pytest.mark.parametrize(
    ("body", "status", "line", "in_order"),
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
def test_status_and_one_line(body, status, line, in_order):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == bool(line)
    assert bool(done.stdout) == in_order


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "caf\\xe9 \\u732b"),
        ("latin-1", "café \\u732b"),
        ("utf-8", "café 猫"),
    ],
)
def test_what_the_output_can_t_show_is_escaped(encoding, shown):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body="print('caf\\xe9 \\u732b')")],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    assert done.stdout.decode(encoding) == f"{shown}\nleft in order\n"
