"""Does a run end, and lose nothing, when one of its two processes hangs?

Two processes train a small two-tower network on the digits, a tower each. One of them
stops itself with SIGSTOP in a step, in a validation or in a save, and stays so until
the other one has ended; then it goes on (SIGCONT). Both must end with status 1 and one
line. Then both are started again, and what the finished run leaves is compared with an
undisturbed one.

    python experiments/reliability/stuck.py --output=FOLDER

`--quick` is one process in a step.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import harness
from kill_resume import SETTINGS, differing, what_is_left


HERE = Path(__file__).parent
# Where each is entered for the last time before the process stops: in the middle.
PLACES = {"step": 10, "validation": 2, "save": 4}
# Of a trial's `train.timeout`: so short that a stuck save ends before JAX notices that
# a process is silent (30 s). The others have compiled what it needs.
TIMEOUT = 4
LONGEST = 300
MORE = (
    "--config.mesh.data=1",
    "--config.mesh.tower=2",
)


def start(workdir, timeout=None, stopped=None, place=""):
    """Both processes of a run, of which one stops itself at a place."""
    short = [f"--config.train.timeout={timeout}", "--config.data.timeout=2"]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    return [
        subprocess.Popen(
            [
                *(sys.executable, str(HERE / "stopping.py"), "--config=quickstart"),
                *(f"--workdir={workdir}", *SETTINGS, *MORE),
                *(short if timeout else ()),
                *(f"--distributed={address}", "--processes=2", f"--process={number}"),
            ],
            env={**environment, "STOP_AT": place if number == stopped else ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


def is_stopped(process):
    """Whether the system says that a process is stopped."""
    status = Path(f"/proc/{process.pid}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "T"


def wait_until(condition, processes):
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > LONGEST:
            for process in processes:
                process.kill()
            raise SystemExit(f"not within {LONGEST} s: {ended(processes)}")
        time.sleep(0.05)


def ended(processes):
    """The exit status and the error lines of each process."""
    found = []
    for process in processes:
        errors = process.communicate(timeout=LONGEST)[1].splitlines()
        lines = [line for line in errors if line.startswith("error: ")]
        found.append({"status": process.returncode, "lines": lines})
    return found


def trial(workdir, timeout, phase, stopped):
    """Stop a process in a phase, and see how both end; a record of it."""
    processes = start(workdir, timeout, stopped, f"{phase}:{PLACES[phase]}")
    waiting, other = processes[stopped], processes[1 - stopped]
    try:
        wait_until(lambda: is_stopped(waiting), processes)
        begin = time.monotonic()
        wait_until(lambda: other.poll() is not None, [other])
        seconds = time.monotonic() - begin
        waiting.send_signal(signal.SIGCONT)
        found = ended(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    stacks = sorted(path.name for path in workdir.glob("stacks-*.txt"))
    for process in found:
        process["lines"] = [
            line.replace(str(workdir), "RUN") for line in process["lines"]
        ]
    return {
        "phase": phase,
        "stopped": stopped,
        "seconds": round(seconds, 1),
        "processes": found,
        "stacks": stacks,
    }


def ended_well(record):
    """Whether both ended with one line and status 1."""
    return all(
        process["status"] == 1 and len(process["lines"]) == 1
        for process in record["processes"]
    )


def run_all(phases, timeout):
    records, differences = [], []
    with tempfile.TemporaryDirectory(prefix="stuck_") as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        finish(Path(folder) / "alone")
        expected = what_is_left(Path(folder) / "alone")
        for phase, stopped in phases:
            workdir = Path(folder) / f"{phase}{stopped}"
            records.append(trial(workdir, timeout, phase, stopped))
            print(json.dumps(records[-1]), file=sys.stderr, flush=True)
            finish(workdir)
            found = differing(expected, what_is_left(workdir), exactly=True)
            differences += [f"{phase}, process {stopped}: {key}" for key in found]
    return records, differences


def finish(workdir):
    found = ended(start(workdir))
    if any(process["status"] != 0 for process in found):
        raise SystemExit(f"{workdir.name} did not end: {found}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one process in a step")
    parser.add_argument("--timeout", type=int, default=TIMEOUT, help="in seconds")
    parser.add_argument("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    phases = [(phase, stopped) for phase in PLACES for stopped in range(2)]
    records, differences = run_all(
        phases[1:2] if given.quick else phases, given.timeout
    )
    result = {
        "experiment": "stuck",
        "tried": len(records),
        "ended_otherwise": sum(not ended_well(record) for record in records),
        "longest_seconds": max(record["seconds"] for record in records),
        "with_stacks": sum(bool(record["stacks"]) for record in records),
        "timeout": given.timeout,
        "differences": differences,
        **harness.machine("jax", "orbax-checkpoint", "grain"),
    }
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in [*records, result])
        (given.output / "stuck.jsonl").write_text(text)
    print(json.dumps(result))
    if differences or result["ended_otherwise"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
