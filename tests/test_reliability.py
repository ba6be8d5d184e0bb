"""Short forms of the experiments on reliability, as their READMEs give them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import users


FOLDER = Path(__file__).parents[1] / "experiments" / "reliability"


def result_of(script, *arguments):
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        capture_output=True,
        text=True,
        env=users.environment(JAX_PLATFORMS="cpu"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.extended
def test_killed_while_it_saves():
    phases = ("save started", "written, not committed", "clean-up")
    result = result_of("kill_resume.py", "--quick", "--phases", *phases)
    assert result["kills"] == 3
    assert result["differences"] == []


@pytest.mark.extended
def test_killed_in_every_phase():
    result = result_of("kill_resume.py", "--quick")
    assert result["kills"] == 7
    assert result["differences"] == []


@pytest.mark.extended
@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(),
    reason="a disk in a file needs root and loop devices",
)
def test_power_cuts():
    result = result_of("power_cut.py", "--quick", "--preparing=0", "--features=0")
    assert result["cuts"]["training"] == 2
    assert (result["lost"], result["different"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.extended
def test_one_of_two_processes_hangs():
    result = result_of("stuck.py", "--quick")
    assert (result["tried"], result["ended_otherwise"]) == (1, 0)
    assert (result["with_stacks"], result["differences"]) == (1, [])


@pytest.mark.slow
@pytest.mark.extended
def test_killed_and_the_disk_removed():
    result = result_of("lost_disk.py", "--quick")
    assert (result["kills"], result["differences"]) == (2, [])


@pytest.mark.extended
def test_fuzzed_borders():
    pytest.importorskip("hypothesis")
    borders = result_of("fuzz.py", "--quick")["borders"]
    assert len(borders) == 7
    for name, row in borders.items():
        assert row["refused"] > 0, name


@pytest.mark.extended
def test_what_a_save_costs(tmp_path):
    cost = result_of("save_cost.py", "--quick", f"--output={tmp_path}")
    assert cost["medians"]["seconds"] >= cost["medians"]["blocked"] > 0
    assert cost["medians"]["cpu"] > 0
    assert 0 < cost["rate"] < 1
