"""Does a run whose machine is taken away, disk and all, end like an undisturbed one?

A small two-tower network learns the digits, with `--mirror` at a folder. It is killed
with SIGKILL at a random moment, its work directory is removed, and the same command is
given again, until there are kills enough; then it runs to its end. What it leaves is
compared with an undisturbed run: every array of every checkpoint, which checkpoints
exist and with which error, and the metrics without their clock fields.

    python experiments/reliability/lost_disk.py --kills=20 --output=FOLDER

`--quick` is two kills.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import harness
from kill_resume import LONGEST, SETTINGS, differing, what_is_left


# So many that there is something to kill.
MORE = (
    "--config.train.steps=160",
    "--config.train.validate_steps=40",
    "--config.train.save_steps=8",
)
# Three of four kills come so many seconds after a save at most, the others so many
# after the start.
LATEST = 6.0


def start(workdir, mirror=None):
    address = [] if mirror is None else [f"--mirror=file://{mirror}"]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "alexnet_jax.main", "--config=quickstart"),
            *(f"--workdir={workdir}", *SETTINGS, *MORE, *address),
        ],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    errors = process.communicate(timeout=10 * LONGEST)[1]
    if process.returncode != 0:
        raise SystemExit(f"a run failed (status {process.returncode}): {errors}")
    return errors


def newest(folder):
    """The newest of the steps that a folder of checkpoints has; 0 without any."""
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


def kill(workdir, mirror, draw):
    """Start a run, kill it at a random moment, and remove its work directory: a record
    of it, None if the run had ended before."""
    seconds, saves = draw.uniform(0, LATEST), draw.random() < 0.75
    process = start(workdir, mirror)
    begin, first = time.monotonic(), None
    while saves and process.poll() is None:
        now = newest(workdir / "checkpoints")
        if first is None and (workdir / "run.json").exists():
            # What was fetched, or nothing.
            first = now
        if first is not None and now > first:
            break
        if time.monotonic() - begin > LONGEST:
            raise SystemExit(f"nothing saved within {LONGEST} s")
        time.sleep(0.02)
    try:
        process.wait(timeout=seconds)
        errors = finish(process)
    except subprocess.TimeoutExpired:
        process.kill()
        errors = process.communicate()[1]
    fetched = [line for line in errors.splitlines() if "was fetched from" in line]
    record = {
        "after_a_save": saves,
        "seconds": round(seconds, 2),
        "fetched": int(fetched[0].split()[1]) if fetched else 0,
        "step_there": newest(workdir / "checkpoints"),
    }
    if process.returncode == 0:
        return None
    if workdir.exists():
        shutil.rmtree(workdir)
    return record


def kill_and_fetch(kills, draw):
    """Kill runs until there are kills enough: the records of the kills, the differences
    from an undisturbed run, the number of runs."""
    records, differences, runs = [], [], 0
    with tempfile.TemporaryDirectory(prefix="lost_disk_") as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        alone = Path(folder) / "alone"
        finish(start(alone))
        expected = what_is_left(alone)
        while len(records) < kills:
            runs += 1
            workdir, mirror = Path(folder) / f"run{runs}", Path(folder) / f"there{runs}"
            while len(records) < kills:
                record = kill(workdir, mirror, draw)
                if record is None:
                    break
                records.append({"kill": len(records) + 1, "run": runs, **record})
                print(json.dumps(records[-1]), file=sys.stderr, flush=True)
            finish(start(workdir, mirror))
            found = differing(expected, what_is_left(workdir), exactly=True)
            differences += [f"run {runs}: {key}" for key in found]
    return records, differences, runs


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two kills")
    parser.add_argument("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    kills = 2 if given.quick else given.kills
    records, differences, runs = kill_and_fetch(kills, random.Random(given.seed))
    result = {
        "experiment": "lost_disk",
        "kills": len(records),
        "runs": runs,
        "fetched": sum(record["fetched"] > 0 for record in records),
        "differences": differences,
        **harness.machine("jax", "orbax-checkpoint", "grain", "fsspec"),
    }
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in [*records, result])
        (given.output / "lost_disks.jsonl").write_text(text)
    print(json.dumps(result))
    if differences:
        sys.exit(1)


if __name__ == "__main__":
    main()
