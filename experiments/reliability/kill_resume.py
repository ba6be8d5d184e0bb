"""Does a run that is killed and resumed many times end like an undisturbed run?

A small two-tower network learns the digits. Each run is killed with SIGKILL in one
phase after another and resumed from what it saved, until it is done. Then every array
of its checkpoints (parameters, momentum, the plateau's state, the step), which
checkpoints exist and with which error, and `metrics.jsonl` without its clock fields are
compared with those of an undisturbed run.

    python experiments/reliability/kill_resume.py --kills=100 --output=FOLDER
    python experiments/reliability/kill_resume.py --kills=12 --signal=TERM

Stopped and started again, it continues after the last run that was completed, if the
commit is the same. `--quick` is one kill in each phase. With `--signal=TERM` or `INT`
the run must stop in time, with exit status 143 or 130.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import numpy as np
from orbax.checkpoint import v1 as ocp

from alexnet_jax.checkpoint.reader import CheckpointReader
from alexnet_jax.runs.metrics_file import CLOCK_FIELDS, METRICS_FILE

import harness


HERE = Path(__file__).parent
PHASES = (
    "compile",
    "step",
    "validation",
    "validation not recorded",
    "save started",
    "written, not committed",
    "clean-up",
)
# Phases that take a while are hit by waiting up to so many seconds within them; in the
# others the process is made to pause.
SECONDS_WITHIN = {"compile": 0.4, "step": 0.2}
# Those in which a process can answer a signal.
AWAKE = ("compile", "step")
STEPS = 24
SETTINGS = (
    *harness.TINY_FLAGS,
    "--config.data.validation_fraction=0.95",
    "--config.train.batch_size=8",
    f"--config.train.steps={STEPS}",
    "--config.train.validate_steps=8",
    "--config.train.save_steps=3",
    "--config.eval.batch_size=300",
    "--config.schedule.kind=plateau",
    "--config.schedule.patience=1",
    "--config.mesh.virtual_cpu_devices=2",
)
# Of a run, in seconds, also on a machine that does much else.
LONGEST = 1200


def start(workdir, phases=None, pause_at=""):
    environment = {**os.environ, "PHASES": str(phases or os.devnull)}
    environment["PAUSE_AT"] = pause_at
    return subprocess.Popen(
        [
            *(sys.executable, str(HERE / "paused.py"), "--config=quickstart"),
            *(f"--workdir={workdir}", *SETTINGS),
        ],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    """Wait for the end; the standard error and the exit status."""
    _, errors = process.communicate(timeout=LONGEST)
    return errors, process.returncode


def reach(process, phases, place):
    """Wait until a phase is in the file; whether it was reached before the end."""
    begin = time.monotonic()
    while process.poll() is None:
        if place in phases.read_text().splitlines():
            return True
        if time.monotonic() - begin > LONGEST:
            raise SystemExit(f"{place} was not reached within {LONGEST} s")
        time.sleep(0.01)
    return False


def last_phase(phases):
    return phases.read_text().splitlines()[-1].rpartition(":")[0]


def what_is_left(workdir):
    """Everything that a run leaves, in a comparable form."""
    lines = []
    for text in (workdir / METRICS_FILE).read_text().splitlines():
        line = json.loads(text)
        lines.append({k: v for k, v in line.items() if k not in CLOCK_FIELDS})
    steps = CheckpointReader(workdir / "checkpoints").steps
    arrays = {}
    for step in steps:
        path = (workdir / "checkpoints" / str(step)).absolute()
        saved = ocp.load(path, checkpointable_name="digests")
        arrays[step] = {name: bytes(np.asarray(d)).hex() for name, d in saved.items()}
    folders = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    return {"lines": lines, "steps": steps, "arrays": arrays, "folders": folders}


def differing(expected, left, *, exactly):
    """In what two finished runs differ. A run that was asked to stop has saved at other
    steps, so only the checkpoints of both are compared: the last and the best."""
    if exactly:
        return [key for key in expected if left[key] != expected[key]]
    steps = expected["steps"]
    best = min(steps, key=lambda step: (steps[step] is None, steps[step], -step))
    found = ["lines"] if left["lines"] != expected["lines"] else []
    for step in {max(steps), best}:
        for key in ("steps", "arrays"):
            if left[key].get(step) != expected[key][step]:
                found.append(f"{key} of {step}")
    return found


def interrupt(workdir, phase, draw, number):
    """Start a run and end it by a signal in a phase; a record of it, None if the run
    was done before."""
    file, name = tempfile.mkstemp()
    os.close(file)
    phases = Path(name)
    count = draw.randint(1, 6) if phase == "step" else draw.randint(1, 2)
    count = 1 if phase == "compile" else count
    pause = "" if phase in SECONDS_WITHIN else f"{phase}:{count}"
    process = start(workdir, phases, pause)
    try:
        if not reach(process, phases, f"{phase}:{count}"):
            errors, status = finished(process)
            if status != 0:
                raise SystemExit(f"the run failed (status {status}): {errors}")
            return None
        time.sleep(draw.uniform(0, SECONDS_WITHIN.get(phase, 0.2)))
        # A pause may be in another thread while the loop continues.
        where = phase if pause else last_phase(phases)
        process.send_signal(number)
        begin = time.monotonic()
        _, status = finished(process)
        seconds = time.monotonic() - begin
    finally:
        process.kill()
        process.wait()
    if status == 0:
        return None
    saved = CheckpointReader(workdir / "checkpoints").steps if workdir.exists() else {}
    record = {
        "signal": signal.Signals(number).name,
        "asked": phase,
        "phase": where,
        "status": status,
        "checkpoints": sorted(saved),
        "seconds_to_leave": round(seconds, 2),
    }
    phases.unlink()
    return record


def kill_and_resume(given, records):
    """Kill runs until there are kills enough, and resume each to its end; yields the
    records of each run: its kills, then in what it differs from an undisturbed one.

    Args:
      given: the arguments.
      records: of runs before.
    """
    number = getattr(signal, f"SIG{given.signal}")
    phases = PHASES if given.signal == "KILL" else AWAKE
    phases = [phase for phase in phases if phase in (given.phases or phases)]
    kills = len(phases) if given.quick else given.kills
    done = sum("kill" in record for record in records)
    runs = sum("differences" in record for record in records)
    commit = harness.machine()["commit"]
    with tempfile.TemporaryDirectory(prefix="kill_resume_") as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        alone = Path(folder) / "alone"
        errors, status = finished(start(alone))
        if status != 0:
            raise SystemExit(f"the undisturbed run failed: {errors}")
        expected = what_is_left(alone)
        while done < kills:
            runs += 1
            workdir, own = Path(folder) / f"run{runs}", []
            draw = random.Random(f"{given.seed} {runs}")
            while done < kills:
                phase = phases[done % len(phases)]
                record = interrupt(workdir, phase, draw, number)
                if record is None:
                    break
                done += 1
                own.append({"kill": done, "run": runs, **record})
                print(json.dumps(own[-1]), file=sys.stderr, flush=True)
            errors, status = finished(start(workdir))
            if status != 0:
                raise SystemExit(f"run {runs} did not resume: {errors}")
            left = what_is_left(workdir)
            found = differing(expected, left, exactly=given.signal == "KILL")
            yield [*own, {"run": runs, "differences": found, "commit": commit}]
            if not found:
                shutil.rmtree(workdir)


def records_before(file):
    """The records of runs of this commit that a stopped experiment has left."""
    found, run = [], []
    lines = file.read_text().splitlines() if file and file.exists() else []
    for record in map(json.loads, lines):
        run.append(record)
        if "differences" in record and "experiment" not in record:
            if record["commit"] == harness.machine()["commit"]:
                found += run
            run = []
    return found


def write(file, records):
    """Write records, where a file is given."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(record) + "\n" for record in records))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kills", type=int, default=100)
    add("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    add("--seed", type=int, default=0)
    add("--quick", action="store_true", help="one kill in each phase")
    add("--phases", nargs="+", choices=PHASES, help="in these (default: all)")
    add("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    file = given.output and given.output / f"kills_{given.signal}.jsonl"
    records = records_before(file)
    for of_run in kill_and_resume(given, records):
        records += of_run
        write(file, records)
    kills = [record for record in records if "kill" in record]
    runs = [record for record in records if "kill" not in record]
    differences = [
        f"run {run['run']}: {key}" for run in runs for key in run["differences"]
    ]
    wanted = {"TERM": 143, "INT": 130, "KILL": -9}[given.signal]
    by_phase = {
        phase: sum(record["phase"] == phase for record in kills) for phase in PHASES
    }
    result = {
        "experiment": "kill_resume",
        "signal": given.signal,
        "kills": len(kills),
        "runs": len(runs),
        "phases": by_phase,
        "other_statuses": sum(record["status"] != wanted for record in kills),
        "seconds_to_leave": max(record["seconds_to_leave"] for record in kills),
        "differences": differences,
        **harness.machine("jax", "orbax-checkpoint", "grain"),
    }
    write(file, [*records, result])
    print(json.dumps(result))
    if differences or result["other_statuses"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
