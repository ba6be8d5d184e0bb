"""`alexnet_jax.main` that notes which checkpoints are saved, and which are deleted.

The environment variable `COMMITTED` names a file, on another disk than the run. It gets
a line when a save has ended, with the checkpoint's files and their SHA-256, and a line
before checkpoints are deleted.
"""

import json
import os
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

from alexnet_jax import main
from alexnet_jax.checkpoint import directory
from alexnet_jax.runtime import cli

from power_cut import files_of


def note(**what):
    with Path(os.environ["COMMITTED"]).open("a") as file:
        file.write(json.dumps(what) + "\n")


def noted_saving(commit):
    def run(folder, step):
        commit(folder, step)
        note(saved={str(step): files_of(folder / str(step))})

    return run


def noted_deleting(delete):
    def run(folder, steps):
        steps = [*steps]
        note(deleted=[str(step) for step in steps])
        delete(folder, steps)

    return run


directory.commit = noted_saving(directory.commit)
directory.delete = noted_deleting(directory.delete)

if __name__ == "__main__":
    cli.run_command(main.main)
