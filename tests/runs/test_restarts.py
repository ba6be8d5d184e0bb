"""Trainings that die and are started again."""

import signal
import subprocess
import sys

import pytest

from alexnet_jax import main
from alexnet_jax.distributed import multihost
from alexnet_jax.runs import restarts
from alexnet_jax.runtime import library_warnings
from alexnet_jax.runtime.errors import InputError


# Stands for a training: a try that saves a step, if one is given, and then dies so.
TRY = """
import os, pathlib, sys
tries = pathlib.Path(sys.argv[1])
number = int(tries.read_text()) if tries.exists() else 0
tries.write_text(str(number + 1))
step, end = sys.argv[2:][number].split(",", 1)
if step:
    pathlib.Path(sys.argv[1] + "-step").write_text(step)
exec(end)
"""
KILLED, FAILED = "os.kill(os.getpid(), 9)", "sys.exit(1)"
GONE = "os.remove(sys.argv[1] + '-step'); sys.exit(1)"


@pytest.fixture
def supervised(tmp_path):
    """Runs tries under supervision; gives the exit status and how many there were."""
    tries, step = tmp_path / "tries", tmp_path / "tries-step"

    def read_step():
        return int(step.read_text()) if step.exists() else None

    def run(number, *planned, fetches=False, latest=read_step):
        for left in (tries, step):
            left.unlink(missing_ok=True)
        command = [sys.executable, "-c", TRY, str(tries), *planned]
        status = restarts.supervise(
            command,
            number,
            latest,
            fetches=fetches,
            pause=0.1,
        )
        return status, int(tries.read_text())

    return run


@pytest.mark.parametrize(
    ("tries", "end"),
    [
        # A death, the end.
        ([f"5,{KILLED}", f"9,{FAILED}", "12,"], (0, 3)),
        # One that has saved nothing yet has a restart.
        ([f",{FAILED}", f"5,{KILLED}", "9,"], (0, 3)),
        # Wrong input, and what was asked to stop, have none.
        (["5,sys.exit(2)"], (2, 1)),
        (["5,sys.exit(143)"], (143, 1)),
        (["5,os.kill(os.getpid(), 15)"], (143, 1)),
        # A loss that is not finite would be so again.
        (["5,sys.exit(3)"], (1, 1)),
        # Nothing gained, though restarts are left; then none left.
        ([f"5,{FAILED}", f",{KILLED}", "9,"], (137, 2)),
        ([f"{n},{FAILED}" for n in range(5)], (1, 4)),
        # What was saved is gone, as where a disk is: a restart would begin anew.
        ([f"5,{FAILED}", f",{GONE}", "9,"], (1, 2)),
        # Another process has not joined: no chance to save, however often.
        ([f"5,{FAILED}", *["5,sys.exit(4)"] * 2, "9,"], (0, 4)),
        (["5,sys.exit(4)"] * 4, (1, 4)),
        # Where the latest was damaged, an earlier one is continued.
        ([f"5,{FAILED}", f"4,{FAILED}", "9,"], (0, 3)),
    ],
)
def test_a_death_that_nobody_asked_for_is_followed_by_a_restart(
    supervised, capfd, tries, end
):
    assert supervised(3, *tries) == end
    said = capfd.readouterr().err
    assert said.count("; restart ") == end[1] - 1 + said.count("saved no step")
    assert ("giving up" in said) == (end[0] in (1, 137) and end[1] > 1)


def test_what_a_mirror_has_is_fetched_by_a_restart(supervised):
    tries = [f"5,{FAILED}", f",{GONE}", "9,"]
    assert supervised(3, *tries, fetches=True) == (0, 3)


def test_a_drive_that_is_away_for_a_moment_ends_no_supervision(supervised, capfd):
    looks = iter([5, OSError("away"), OSError("away"), 9])

    def latest():
        found = next(looks)
        if isinstance(found, OSError):
            raise found
        return found

    tries = [f"5,{FAILED}", f"7,{FAILED}", f"9,{KILLED}", "12,"]
    assert supervised(3, *tries, latest=latest) == (0, 4)
    assert capfd.readouterr().err.count("checkpoints can't be seen (away)") == 2


@pytest.mark.parametrize(("flags", "status"), [([], 1), (["--restarts=2"], 4)])
def test_what_others_do_not_join_is_known_to_the_supervisor(monkeypatch, flags, status):
    asked = {}

    def start(*arguments, **options):
        asked.update(options)
        raise InputError("no other process")

    monkeypatch.setattr(multihost, "start", start)
    # This process keeps its standard error.
    monkeypatch.setattr(library_warnings, "silence_cpp_output", lambda: None)
    monkeypatch.setattr(restarts, "is_supervised", lambda: True)
    joining = ["--distributed=127.0.0.1:1", "--processes=2", "--process=0", *flags]
    monkeypatch.setattr(sys, "argv", ["main", "--config=quickstart", *joining])
    with pytest.raises(InputError, match="no other process"):
        main.main()
    assert asked == {"not_joined": status}
    assert status in (1, restarts.NOT_JOINED)


SUPERVISOR = """
import sys
from alexnet_jax.runs import restarts
sys.exit(restarts.supervise(sys.argv[1:], 3, lambda: None))
"""
WAITS = """
import signal, sys, time
from alexnet_jax.runs import restarts
assert restarts.is_supervised()
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: sys.exit(f"stopped by {number}"))
print("waits", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGKILL])
def test_a_training_stops_with_its_supervisor(sent):
    """What the supervisor gets is passed on, and no restart follows; where it is
    killed, the training is asked to stop."""
    command = [sys.executable, "-c", SUPERVISOR, sys.executable, "-c", WAITS]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(sent)
        got = signal.SIGTERM if sent == signal.SIGKILL else sent
        assert process.stderr.read() == f"stopped by {got:d}\n"


def test_restarts_out_of_range(monkeypatch):
    for value, message in (("-1", "--restarts=-1 must not be"), ("x", "--restarts")):
        arguments = ["main", f"--restarts={value}", "--config=quickstart"]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(InputError, match=message):
            main.main()
    monkeypatch.setattr(sys, "argv", ["main", "--restarts=2", "--config=quickstart"])
    with pytest.raises(InputError, match="--workdir is missing"):
        main.main()
