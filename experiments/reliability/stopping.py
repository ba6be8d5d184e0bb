"""`alexnet_jax.main` that stops itself with SIGSTOP, as if it hung.

The environment variable `STOP_AT=PHASE:COUNT` says when: as it enters the phase for the
COUNTth time. The phases are a step, a validation and a save.
"""

import functools
import os
import signal
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

from alexnet_jax import main
from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.runs import setup
from alexnet_jax.runtime import cli


_wanted, _, _count = os.environ.get("STOP_AT", "").partition(":")
_seen = 0


def stopping(phase, function):
    @functools.wraps(function)
    def run(*arguments, **named):
        global _seen
        if phase == _wanted:
            _seen += 1
            if _seen == int(_count):
                os.kill(os.getpid(), signal.SIGSTOP)
        return function(*arguments, **named)

    return run


def making(phase, make):
    @functools.wraps(make)
    def run(*arguments, **named):
        return stopping(phase, make(*arguments, **named))

    return run


def making_steps(make_steps):
    @functools.wraps(make_steps)
    def run(*arguments, **named):
        steps = make_steps(*arguments, **named)
        return setup.dataclasses.replace(steps, train=stopping("step", steps.train))

    return run


setup.make_steps = making_steps(setup.make_steps)
setup.make_validation = making("validation", setup.make_validation)
CheckpointWriter.save = stopping("save", CheckpointWriter.save)

if __name__ == "__main__":
    cli.run_command(main.main)
