"""Does a long run keep its memory, its open files and its pace?

A small two-tower network trains for 5,000 steps on JPEG files of a prepared set (pieces
of the photographs that come with scikit-learn), read by threads in the program and in
two workers, with validations and checkpoints in between. Every second the memory of all
its processes (proportional set size) and their open files are read from /proc.

    python experiments/reliability/long_run.py --output=FOLDER

Linux only. `growth` is the memory at the end over that after 1,000 steps (medians of a
tenth of the samples at either end), minus one; `pace` is the same of seconds a step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from alexnet_jax.data.prepared.preparation import prepare
from alexnet_jax.runs.metrics_file import METRICS_FILE

import harness


WARM_UP = 1000
IMAGES = 600


def write_images(folder):
    """Class folders of pieces of two photographs."""
    rng = np.random.default_rng(0)
    for label, photograph in enumerate(load_sample_images().images):
        for split, count in (("train", IMAGES), ("val", IMAGES // 10)):
            place = folder / split / f"photograph{label}"
            place.mkdir(parents=True)
            for number in range(count):
                row, column = rng.integers(0, [427 - 90, 640 - 120])
                piece = photograph[row : row + 90, column : column + 120]
                Image.fromarray(piece).save(place / f"{number}.jpg")


def family(process):
    """The process and all that it has started, by the parents in /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found = {process}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def sample(process):
    """Memory of the process's family in bytes, their number, their open files."""
    memory = files = count = 0
    for member in family(process):
        place = Path(f"/proc/{member}")
        try:
            rollup = (place / "smaps_rollup").read_text()
            files += len(list((place / "fd").iterdir()))
        except OSError:
            continue
        count += 1
        for line in rollup.splitlines():
            if line.startswith("Pss:"):
                memory += int(line.split()[1]) * 1024
    return memory, count, files


def steps_done(metrics):
    if not metrics.exists():
        return 0
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        try:
            return json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def change(values):
    """The median of the last tenth over that of the first, minus one."""
    tenth = max(1, len(values) // 10)
    return statistics.median(values[-tenth:]) / statistics.median(values[:tenth]) - 1


def draw(samples, rates, path):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (memory, files, pace) = pyplot.subplots(3, 1, figsize=(7, 7), sharex=True)
    steps = [s["step"] for s in samples]
    memory.plot(steps, [s["memory"] / 2**20 for s in samples])
    memory.set_ylabel("memory, MiB")
    files.plot(steps, [s["open_files"] for s in samples])
    files.set_ylabel("open files")
    places = range(50, len(rates), 50)
    pace.plot(places, [statistics.median(rates[p - 50 : p]) for p in places])
    pace.set_ylabel("images/s, median of 50 steps")
    pace.set_xlabel("step")
    for axes in (memory, files, pace):
        axes.set_ylim(bottom=0)
        axes.axvline(WARM_UP, color="grey", linestyle=":")
    figure.tight_layout()
    figure.savefig(path)


def watched_run(folder, given):
    """Train in `folder`; a sample a second, and the lines of the run's metrics."""
    write_images(folder / "images")
    prepare(
        source="folder",
        input_path=str(folder / "images"),
        output=folder / "prepared",
        size=77,
    )
    command = [
        *(sys.executable, "-m", "alexnet_jax.main", "--config=imagenet"),
        f"--workdir={folder / 'run'}",
        f"--config.data.path={folder / 'prepared'}",
        "--config.data.crop=67",
        f"--config.data.workers={given.workers}",
        *harness.TINY_FLAGS,
        "--config.train.batch_size=16",
        f"--config.train.steps={given.steps}",
        "--config.train.validate_steps=500",
        "--config.train.save_steps=100",
        "--config.mesh.virtual_cpu_devices=2",
    ]
    samples = []
    metrics = folder / "run" / METRICS_FILE
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            memory, count, files = sample(process.pid)
            step = steps_done(metrics)
            row = {"step": step, "memory": memory}
            samples.append({**row, "processes": count, "open_files": files})
            time.sleep(1)
    if process.returncode != 0:
        raise SystemExit(f"the run ended with status {process.returncode}")
    return samples, [json.loads(line) for line in metrics.read_text().splitlines()]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="long_run_") as name:
        samples, lines = watched_run(Path(name), given)
    rates = [line["images_per_second"] for line in lines if line["split"] == "train"]
    warm = [s for s in samples if WARM_UP <= s["step"] < given.steps]
    result = {
        "experiment": "long_run",
        "steps": given.steps,
        "processes": max(s["processes"] for s in warm),
        "memory": max(s["memory"] for s in warm),
        "growth": change([s["memory"] for s in warm]),
        "open_files": sorted({s["open_files"] for s in warm}),
        "pace": change([1 / rate for rate in rates[WARM_UP:]]),
        **harness.machine("jax", "orbax-checkpoint", "grain"),
    }
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        file = given.output / "long_run.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in [*samples, result]))
        draw(samples, rates, given.output / "long_run.svg")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
