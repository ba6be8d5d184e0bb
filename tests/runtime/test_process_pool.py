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
        "a worker process was killed, possibly for lack of memory or by a limit on "
        "processes; give the same command again with fewer --workers"
    )


def test_where_few_threads_start_there_are_fewer_processes(tmp_path):
    limited = """import joblib, resource
    from alexnet_jax.runtime import errors, process_pool
    pages = int(open("/proc/self/statm").read().split()[0])
    # Room for the stacks of some six threads, and none for the 64 MiB of addresses
    # that malloc takes for a thread where it can.
    limit = pages * resource.getpagesize() + 7 * 2**23
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    process_pool.check_startable(3, "little")
    try:
        process_pool.check_startable(40, "JAX", "stay")
    except errors.InputError as error:
        print(error)
    """
    call = "sorted(spread(count, [1] * 9, processes=9, advance=seen.append))"
    done = run(tmp_path, f"{limited}print(len({call}))")
    assert not done.returncode, done.stderr
    line, nine = done.stdout.splitlines()
    assert line.startswith("JAX needs 40 more processes and threads, and the system al")
    assert line.endswith("the container or the job, or stay")
    assert nine == "9"
    assert done.stderr.startswith("warning: the system allows ")


WORK = "def count(task, advance):\n    advance(1)\n    return 10 * task\n"
CALL = """
import work
from alexnet_jax.runtime.process_pool import spread
def main():
    print(sorted(spread(work.count, [1, 2], processes=2, advance=lambda done: None)))
"""
GUARDED = 'if __name__ == "__main__":\n    '
PASS = f"{GUARDED}pass\n"


@pytest.mark.parametrize(
    ("how", "end", "said"),
    [
        ("file", f"{GUARDED}main()", None),
        ("file", '__name__ == "__main__" and main()', None),
        ("file", "main()", "program.py, line 6: each worker process runs this file"),
        ("file", f"{PASS}main()", "program.py, line 8: each worker process runs this"),
        (
            "file",
            "if True:\n    main()",
            "program.py, line 7: each worker process runs",
        ),
        ("stdin", f"{GUARDED}main()", "can't start from a program on standard input"),
        ("command", "main()", None),
        ("module", f"{GUARDED}main()", None),
        ("module", "main()", "program.py, line 6: each worker process runs this file"),
        ("notebook", "main()", None),
    ],
)
def test_workers_start_from_a_program_that_they_do_not_run_again(
    tmp_path, how, end, said
):
    (tmp_path / "work.py").write_text(WORK)
    program = f"{CALL}{end}\n"
    (tmp_path / "program.py").write_text(program)
    given = {
        "file": ["program.py"],
        "stdin": ["-"],
        "command": ["-c", program],
        "module": ["-m", "program"],
        # What a notebook runs has no file either.
        "notebook": ["-c", f"exec(compile({program!r}, '<cell>', 'exec'))"],
    }[how]
    done = subprocess.run(
        [sys.executable, *given],
        input=program if how == "stdin" else None,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if said is None:
        assert done.stdout == "[10, 20]\n", done.stderr
        return
    assert said in done.stderr.splitlines()[-1]
    assert "workers=1" in done.stderr.splitlines()[-1]
    assert done.stdout == ""
