"""What Orbax leaves behind after a failed save."""

import subprocess
import sys

import pytest


PROGRAM = """
import contextlib, pathlib
from alexnet_jax.checkpoint import orbax_errors
from alexnet_jax.runtime.errors import Failure

with contextlib.suppress(Failure), orbax_errors.writable(pathlib.Path("run")):
    raise OSError("no space left")

class Dropped:
    def __del__(self):
        raise RuntimeError({message!r})

Dropped()
"""


@pytest.mark.parametrize(
    ("message", "shown"), [("Event loop is closed", False), ("anything else", True)]
)
def test_after_a_failed_save_only_its_echo_is_not_shown(message, shown):
    program = PROGRAM.format(message=message)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert (message in done.stderr) == shown
