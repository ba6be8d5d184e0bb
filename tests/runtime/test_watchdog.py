"""A process that is stuck ends; one that is slow, was stopped or waits does not."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


PROGRAM = """
import errno, sys, time
from pathlib import Path
from alexnet_jax.runtime.patience import until_reachable
from alexnet_jax.runtime.watchdog import Watchdog

def hanging():
    time.sleep(100)

def away():
    if time.monotonic() < end:
        raise OSError(errno.ENOTCONN, "away")

least = {"stepping": 0.3, "saving": 0.3}
with Watchdog(least, stacks=Path(sys.argv[1]), who="process 3") as watchdog:
    time.sleep(0.5)
    for _ in range(3):
        watchdog.enter("stepping")
        time.sleep(0.1)
    watchdog.enter("stepping")
    time.sleep(0.6)
    print("slower than ever, and not stuck", flush=True)
    watchdog.enter("saving")
    time.sleep(0.15)
    watchdog.enter("saving")
    end = time.monotonic() + 0.6
    until_reachable(Path("drive"), away)
    print("the drive is back", flush=True)
    watchdog.enter("saving")
    hanging()
"""


# There is no other folder either.
NOWHERE = """
import tempfile

def full(**options):
    raise OSError("no space left")

tempfile.mkdtemp = full
"""


def start(stacks: Path, before: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", before + PROGRAM, str(stacks)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.slow
def test_a_stuck_process_ends_with_its_stacks_and_one_line(tmp_path):
    stacks = tmp_path / "stacks-3.txt"
    process = start(stacks)
    output, errors = process.communicate(timeout=60)
    assert output.splitlines() == [
        "slower than ever, and not stuck",
        "the drive is back",
    ]
    assert process.returncode == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: process 3: stuck for ") and "while saving" in line
    assert f"the stacks of all threads are in {stacks}" in line
    assert "in hanging" in stacks.read_text()


@pytest.mark.slow
def test_where_the_folder_takes_no_stacks_another_does(tmp_path):
    process = start(tmp_path / "gone" / "stacks-3.txt")
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    written = Path(line.partition("all threads are in ")[2].partition(";")[0])
    assert "in hanging" in written.read_text()


@pytest.mark.extended
def test_where_nothing_takes_the_stacks_it_ends_all_the_same(tmp_path):
    process = start(tmp_path / "gone" / "stacks-3.txt", before=NOWHERE)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "stuck for " in line and "stacks" not in line


STOPPED = """
import time
from pathlib import Path
from alexnet_jax.runtime.watchdog import Watchdog

with Watchdog({"stepping": 0.5}, stacks=Path("none"), who="process 0") as watchdog:
    watchdog.enter("stepping")
    print("stop", flush=True)
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        time.sleep(0.01)
    watchdog.enter("stepping")
    print(watchdog.limit("stepping") < 15)
"""


def test_time_in_which_it_was_stopped_does_not_count():
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "stop\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(1)
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors, output) == (0, "", "True\n")
