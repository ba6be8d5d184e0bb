"""`alexnet_jax.main` that records which phase it is in, and can pause in one.

Environment variables say where: `PHASES` is a file that gets a line at every change of
phase; `PAUSE_AT=PHASE:COUNT` makes the process sleep when it enters that phase for the
COUNTth time, so that phases too short to be hit at random can be hit.
"""

import functools
import os
import shutil
import sys
import time
import types
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

from orbax.checkpoint._src.path import atomicity

from alexnet_jax import main
from alexnet_jax.checkpoint import directory
from alexnet_jax.runs import setup
from alexnet_jax.runtime import cli
from alexnet_jax.training import step

from kill_resume import PHASES


SECONDS = 600

# Open as long as the process lives, and written to line by line.
_file = Path(os.environ["PHASES"]).open("a", buffering=1)  # noqa: SIM115
_wanted, _, _count = os.environ.get("PAUSE_AT", "").partition(":")
_seen = dict.fromkeys(PHASES, 0)


def enter(phase):
    _seen[phase] += 1
    print(f"{phase}:{_seen[phase]}", file=_file)
    if phase == _wanted and _seen[phase] == int(_count):
        time.sleep(SECONDS)


def compiling(make_train_step):
    @functools.wraps(make_train_step)
    def make(*arguments, **named):
        train_step = make_train_step(*arguments, **named)

        def run(*values):
            if not _seen["step"]:
                print("compile:1", file=_file)
            result = train_step(*values)
            enter("step")
            return result

        return run

    return make


def validating(make_validation):
    @functools.wraps(make_validation)
    def make(**settings):
        validate = make_validation(**settings)

        def run(*arguments, **named):
            enter("validation")
            result = validate(*arguments, **named)
            print("step:0", file=_file)
            return result

        return run

    return make


def before_recording(write_validation):
    def run(*arguments):
        enter("validation not recorded")
        write_validation(*arguments)

    return run


def after_creating(create):
    async def run(self):
        path = await create(self)
        enter("save started")
        return path

    return run


def before_committing(commit):
    def run(folder, step):
        enter("written, not committed")
        commit(folder, step)
        print("step:0", file=_file)

    return run


def half_way(rmtree):
    def run(folder):
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        for path in files[: len(files) // 2]:
            path.unlink()
        enter("clean-up")
        rmtree(folder)
        print("step:0", file=_file)

    return run


step.make_train_step = compiling(step.make_train_step)
setup.make_validation = validating(setup.make_validation)
directory.write_validation = before_recording(directory.write_validation)
writing = atomicity.AtomicRenameTemporaryPath
writing.create = after_creating(writing.create)
directory.commit = before_committing(directory.commit)
directory.shutil = types.SimpleNamespace(rmtree=half_way(shutil.rmtree))

if __name__ == "__main__":
    cli.run_command(main.main)
