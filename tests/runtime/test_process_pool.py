"""Work spread over processes: results, progress, and a worker that is killed."""

import subprocess
import sys

import pytest


# In a file, since workers import the module that their function is from.
PROGRAM = """
import os, signal
from alexnet_jax.runtime.process_pool import spread


def count(task, advance):
    for _ in range(task):
        advance(1)
    return 10 * task


def die(task, advance):
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    seen = []
    {body}
"""


def run(folder, body):
    path = folder / "program.py"
    path.write_text(PROGRAM.format(body=body))
    return subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_every_result_comes_and_all_progress_is_counted(tmp_path, processes):
    call = f"spread(count, [1, 2, 3, 4], processes={processes}, advance=seen.append)"
    done = run(tmp_path, f"print(sorted({call}), sum(seen))")
    assert done.stdout == "[10, 20, 30, 40] 10\n", done.stderr


def test_a_killed_worker_is_an_error_and_not_a_wait(tmp_path):
    done = run(tmp_path, "list(spread(die, [1, 2], processes=2, advance=seen.append))")
    assert done.stderr.splitlines()[-1].endswith(
        "a worker process was killed, possibly for lack of memory; give the same "
        "command again with fewer --workers"
    )
