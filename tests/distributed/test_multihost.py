"""Several processes of one run, on 127.0.0.1: the same bits, and what can fail."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax.checkpoint import orbax_errors
from alexnet_jax.distributed import multihost
from alexnet_jax.runtime.errors import InputError, ProcessLost

import runs
import users
from watch import wait_for


SECONDS = 240
PAUSED = Path(__file__).parents[2] / "experiments" / "reliability" / "paused.py"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_both(
    folder, name, *overrides, second=(), pausing=0, pause_at="", environment=None
):
    """Two processes of a run; one may pause in a phase of `paused.py`."""
    flags = [f"--distributed=127.0.0.1:{free_port()}", "--processes=2"]
    started = []
    for process in range(2):
        own = [*flags, f"--process={process}", *(second if process else ())]
        how = {"devices": 1, "environment": environment}
        if pause_at and process == pausing:
            phases = {"PHASES": f"{folder}/phases", "PAUSE_AT": pause_at}
            how |= {"program": [str(PAUSED)], "environment": os.environ | phases}
        started.append(runs.start(folder, name, *overrides, *own, **how))
    return started


def ended(started):
    """Exit status, output and the lines of the error stream of each process."""
    try:
        outputs = [process.communicate(timeout=SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        (process.returncode, out, err.splitlines())
        for process, (out, err) in zip(started, outputs, strict=True)
    ]


def errors(lines):
    return [line for line in lines if line.startswith("error: ")]


SHORT = ("--config.train.validate_steps=5", "--config.train.steps=10")


@pytest.mark.extended
def test_two_processes_give_the_bits_of_one_and_one_resumes(tmp_path):
    """Two along the data; one process resumes what two have saved."""
    mesh = ("--config.mesh.data=2", "--config.mesh.tower=1")
    # Without a cache of programs the errors of JAX's C++ are shown, of which there are
    # none.
    user = users.environment(JAX_PLATFORMS="cpu")
    for status, _, lines in ended(
        start_both(tmp_path, "two", *SHORT, *mesh, environment=user)
    ):
        assert status == 0, lines
        assert not [line for line in lines if re.match(r"[IWEF]\d{4} ", line)]
    for name in ("two", "one"):
        runs.run(tmp_path, name, SHORT[0], "--config.train.steps=14", *mesh)

    assert runs.lines(tmp_path / "two") == runs.lines(tmp_path / "one")
    for step in (10, 14):
        same_digests(tmp_path, step)


@pytest.mark.slow
def test_two_processes_with_a_tower_each_give_the_bits_of_one(tmp_path):
    """Both read the same images, and neither holds a whole parameter; both save after
    the same steps, by the clock of one."""
    mesh = ("--config.mesh.data=1", "--config.mesh.tower=2")
    often = ("--config.train.save_minutes=0", "--config.checkpoint.keep_every=1")
    both = ended(start_both(tmp_path, "two", *SHORT, *mesh, *often))
    for status, _, lines in both:
        assert status == 0, lines
    # The result, and nothing of gloo's.
    assert json.loads(both[0][1])["step"] == 10
    assert (both[1][1], both[1][2]) == ("", [])
    assert runs.checkpoint_steps(tmp_path / "two").keys() == set(range(1, 11))
    runs.run(tmp_path, "one", *SHORT, *mesh)

    assert runs.lines(tmp_path / "two") == runs.lines(tmp_path / "one")
    same_digests(tmp_path, 10)


@pytest.mark.extended
@pytest.mark.parametrize("second", ["device", "host"])
def test_each_process_may_hold_the_images_on_its_devices(
    tmp_path, image_folder, second
):
    """Photographs with mirrors: the bits of one process that reads from the host."""
    data = (
        "--config.data.source=folder",
        f"--config.data.path={image_folder}",
        "--config.data.flip=True",
        "--config.mesh.data=2",
        "--config.mesh.tower=1",
    )
    held, own = "--config.data.hold=device", (f"--config.data.hold={second}",)
    started = start_both(tmp_path, "two", *SHORT, *data, held, second=own)
    for status, _, lines in ended(started):
        assert status == 0, lines
    process = runs.start(tmp_path, "one", *SHORT, *data, devices=2)
    status, _, lines = ended([process])[0]
    assert status == 0, lines

    assert runs.lines(tmp_path / "two") == runs.lines(tmp_path / "one")
    same_digests(tmp_path, 10)
    (start,) = json.loads((tmp_path / "two" / "run.json").read_text())["starts"]
    assert start["held_by_devices"] == ["train", "validation"]


def same_digests(folder: Path, step: int, name: str = "two") -> None:
    two, one = (runs.final_digests(folder / which, step) for which in (name, "one"))
    assert len(two) > 10
    np.testing.assert_equal(two, one)


@pytest.mark.extended
def test_a_signal_to_one_stops_all_at_the_same_step(tmp_path):
    started = start_both(tmp_path, "run", "--config.train.steps=100000")
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 3, *started)
    started[1].send_signal(signal.SIGTERM)
    for status, _, lines in ended(started):
        assert status == 128 + signal.SIGTERM, lines
    steps = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert str(last) in steps


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param(0, marks=pytest.mark.extended),
        pytest.param(1, marks=pytest.mark.extended),
    ],
)
def test_when_one_is_killed_the_other_reports_it_and_ends(tmp_path, lost):
    started = start_both(tmp_path, "run", "--config.train.steps=100000")
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 3, *started)
    started[lost].kill()
    status, _, lines = ended(started)[1 - lost]
    assert status == 1
    assert len(errors(lines)) == 1
    assert f"process {1 - lost}: another process has ended" in errors(lines)[0]


@pytest.mark.extended
@pytest.mark.parametrize(
    ("lost", "at", "saves", "left"),
    [
        (0, "written, not committed:2", SHORT, {5}),
        # Process 1 gives no name: it is lost a step after the save began.
        (1, "step:5", ("--config.train.steps=10", "--config.train.save_steps=2"), {2}),
    ],
)
def test_a_process_that_is_lost_in_a_save_loses_that_save_alone(
    tmp_path, lost, at, saves, left
):
    """When all is written and nothing has its name: the other process ends with one
    line, and one process alone goes on to the same bits."""
    options = (*saves, "--config.mesh.data=1", "--config.mesh.tower=2")
    phases = tmp_path / "phases"
    started = start_both(tmp_path, "run", *options, pausing=lost, pause_at=at)
    wait_for(lambda: phases.exists() and at in phases.read_text(), *started)
    started[lost].kill()
    status, _, lines = ended(started)[1 - lost]
    assert status == 1
    (line,) = errors(lines)
    assert f"process {1 - lost}: another process has ended" in line
    assert runs.checkpoint_steps(tmp_path / "run").keys() == left

    for name in ("run", "one"):
        runs.run(tmp_path, name, *options)
    assert runs.lines(tmp_path / "run") == runs.lines(tmp_path / "one")
    same_digests(tmp_path, 10, "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "named"),
    [
        pytest.param(
            *("--config.train.seed=7", "train.seed"), marks=pytest.mark.extended
        ),
        ("--config.data.validation_fraction=0.9", "data.validation_fraction"),
    ],
)
def test_processes_that_differ_are_refused(tmp_path, second, named):
    for status, _, lines in ended(start_both(tmp_path, "run", second=[second])):
        assert status == 2, lines
        (line,) = errors(lines)
        assert f"{named} (process 1)" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_process_that_never_joins_is_named():
    program = (
        "from alexnet_jax.distributed import multihost\n"
        "from alexnet_jax.runtime import cli\n"
        f"start = lambda: multihost.start('127.0.0.1:{free_port()}', 2, 0, 5)\n"
        "cli.run_command(start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 1, done.stderr
    (line,) = errors(done.stderr.splitlines())
    assert "within 5 s: process 1 is missing" in line


OMPI = {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:34911"}
# JAX takes the port from the job's number; a cluster's processes meet on every
# interface, these on one.
JOB = os.getpid()
SLURM = {
    **{"SLURM_JOB_ID": str(JOB), "SLURM_STEP_NODELIST": "localhost"},
    **{"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{61440 + JOB % 4096}",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "line"),
    [
        pytest.param({}, "JAX finds no cluster", id="no variables"),
        ({"SLURM_JOB_ID": "12345"}, "JAX finds no cluster"),
        (OMPI, "the variable OMPI_COMM_WORLD_SIZE is not set"),
        ({"OMPI_MCA_orte_hnp_uri": "x"}, "leave --distributed out"),
        pytest.param(SLURM, None, id="all variables"),
    ],
)
def test_a_cluster_is_found_by_its_variables_or_what_lacks_is_named(variables, line):
    program = (
        "from alexnet_jax.distributed import mesh, multihost\n"
        "from alexnet_jax.runtime import cli\n"
        "def main():\n"
        "    multihost.start(None, None, None)\n"
        "    with multihost.together():\n"
        "        print(mesh.open_mesh(towers=2, virtual_cpu_devices=2).size)\n"
        "cli.run_command(main)"
    )
    known = ("SLURM", "OMPI", "JAX_NUM_CPU_DEVICES")
    others = {k: v for k, v in os.environ.items() if not k.startswith(known)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**others, **variables},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    found = errors(done.stderr.splitlines())
    if line is None:
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
        assert "virtual_cpu_devices=2 has no effect" in done.stderr
        return
    assert done.returncode == 2
    (said,) = found
    assert line in said


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("127.0.0.1:1", None, None), "--processes and --process"),
        (("127.0.0.1:1", 2, None), "--process"),
        ((None, 2, 0), "--distributed=HOST:PORT"),
        (("127.0.0.1:1", 2, 2), "between 0 and 1"),
        (("127.0.0.1", 2, 0), "must be HOST:PORT"),
    ],
)
def test_arguments_that_do_not_fit_together(given, missing):
    with pytest.raises(InputError, match=re.escape(missing)):
        multihost.start(*given)


GLOO = "UNKNOWN: Gloo AllReduce failed: Connection closed by peer [127.0.0.1]:40123"


@pytest.mark.parametrize("inside", [None, orbax_errors.readable, orbax_errors.writable])
def test_a_lost_connection_is_one_line_wherever_it_is_noticed(tmp_path, inside):
    """JAX raises a plain ValueError where a collective fails at its dispatch."""
    with (
        pytest.raises(ProcessLost, match="another process has ended .*Gloo AllReduce"),
        multihost.together(),
        inside(tmp_path) if inside else contextlib.nullcontext(),
    ):
        raise ValueError(GLOO)
    with pytest.raises(InputError, match="Gloo"), multihost.together():
        raise InputError("no folder Gloo")


@pytest.mark.extended
def test_a_process_with_another_work_directory_is_refused_with_the_others(tmp_path):
    """As with a path that is on each host's own disk."""
    mesh = ("--config.mesh.data=2", "--config.mesh.tower=1")
    runs.run(tmp_path, "run", *SHORT)
    other = (f"--workdir={tmp_path / 'other'}",)
    both = ended(start_both(tmp_path, "run", *SHORT, *mesh, second=other))
    for status, _, lines in both:
        assert status == 2, lines
        assert len(errors(lines)) == 1
        assert "must be one folder that all processes see" in errors(lines)[0]
    assert f"{tmp_path / 'other' / 'lock'} is not there" in errors(both[1][2])[0]
    assert runs.checkpoint_steps(tmp_path / "run").keys() == {5, 10}
