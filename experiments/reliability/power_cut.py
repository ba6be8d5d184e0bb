"""What does a power cut lose? Training, preparing and features on a disk that is cut.

A disk is an ext4 file system in a file. To cut the power its writers are stopped, the
file is copied as it is at that moment, and they are killed: what the system had not yet
written is lost. The copy is mounted, which replays its journal as after a power cut,
and the same command is given again, until it is done. Then every byte of the result is
compared with that of an undisturbed command; and after every cut each checkpoint whose
save had ended before it, and that was not deleted for a newer one, must be there with
the bytes that it had.

    python experiments/reliability/power_cut.py --output=FOLDER [--training=CUTS]
        [--preparing=CUTS] [--features=CUTS] [--quick]

Needs root and loop devices (Linux). `--quick` is two cuts of each.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

import harness
from kill_resume import SETTINGS, what_is_left


HERE = Path(__file__).parent
MEGABYTES = 512
IMAGES = 600
LONGEST = 1200
TOOLS = ("mkfs.ext4", "mount", "umount", "cp", "cmp")


class Work(NamedTuple):
    """A command whose result lies on the disk.

    Attributes:
      command: the arguments of Python, given the folder of the disk.
      result: the bytes of a finished command, in a comparable form.
      once: whether the command is refused where its result is there already.
    """

    command: Callable[[Path], list[str]]
    result: Callable[[Path], object]
    once: bool = True


class Disk:
    """An ext4 file system in a file, mounted; see `disk`."""

    def __init__(self, folder: Path) -> None:
        self.file, self.place = folder / "disk.img", folder / "disk"
        self.place.mkdir()
        with self.file.open("wb") as file:
            file.truncate(MEGABYTES << 20)
        _tool("mkfs.ext4", "-q", self.file)
        self.mount()

    def mount(self) -> None:
        """Mount it; a journal is replayed."""
        _tool("mount", "-o", "loop", self.file, self.place)

    def unmount(self) -> None:
        """Unmount it, when the last of the processes that were killed has let it go."""
        end = time.monotonic() + LONGEST
        while subprocess.run(["umount", self.place], capture_output=True).returncode:
            if time.monotonic() > end:
                raise SystemExit(f"{self.place} can't be unmounted")
            time.sleep(0.1)

    def cut(self, process: subprocess.Popen[str]) -> None:
        """Cut the power under a process and its children, and start the disk again."""
        os.killpg(process.pid, signal.SIGSTOP)
        copy = self.file.with_suffix(".copy")
        # The system may write meanwhile what it had put off: a copy is of one moment
        # if the file is the same after it.
        while True:
            _tool("cp", "--sparse=always", self.file, copy)
            if not subprocess.run(["cmp", "-s", self.file, copy]).returncode:
                break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.unmount()
        copy.replace(self.file)
        self.mount()


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A disk in a new folder."""
    folder.mkdir()
    made = Disk(folder)
    try:
        yield made
    finally:
        made.unmount()


def _tool(*command: str | Path) -> None:
    subprocess.run([*map(str, command)], check=True)


def start(work: Work, place: Path, committed: Path) -> subprocess.Popen[str]:
    """Start a command; what it commits is noted in a file that is not on the disk."""
    return subprocess.Popen(
        [sys.executable, *work.command(place)],
        env={**os.environ, "COMMITTED": str(committed)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a command that must work; its standard error."""
    errors = process.communicate(timeout=LONGEST)[1]
    if process.returncode:
        raise SystemExit(f"status {process.returncode}: {errors}")
    return errors


def _ends(process: subprocess.Popen[str], seconds: float) -> bool:
    """Whether a process ends within so many seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def files_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder, by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lost(place: Path, committed: Path) -> list[str]:
    """The checkpoints that were committed before a cut and aren't whole after it."""
    stay: dict[str, dict[str, str]] = {}
    for line in committed.read_text().splitlines():
        noted = json.loads(line)
        stay.update(noted.get("saved", {}))
        for step in noted.get("deleted", ()):
            stay.pop(step, None)
    checkpoints = place / "run" / "checkpoints"
    return [
        step
        for step, files in stay.items()
        if not files.items() <= files_of(checkpoints / step).items()
    ]


def cut_and_continue(
    name: str, work: Work, cuts: int, folder: Path, draw: random.Random
) -> Iterator[dict[str, object]]:
    """Cut the power under a command so many times, over several of its runs; yields a
    record of each cut and of each run's end."""
    undisturbed, committed = folder / "undisturbed", folder / "committed"
    undisturbed.mkdir()
    committed.touch()
    # Twice: the first one compiles what the others find compiled.
    seconds = 0.0
    for _ in range(2):
        shutil.rmtree(undisturbed)
        undisturbed.mkdir()
        begin = time.monotonic()
        finish(start(work, undisturbed, committed))
        seconds = time.monotonic() - begin
    expected, done, runs = work.result(undisturbed), 0, 0
    while done < cuts:
        runs += 1
        committed.write_text("")
        with disk(folder / f"run{runs}") as drive:
            process, whole = start(work, drive.place, committed), False
            try:
                while done < cuts and not _ends(
                    process, draw.uniform(0.3, 1) * seconds
                ):
                    drive.cut(process)
                    done += 1
                    record = {"what": name, "run": runs, "cut": done}
                    yield {**record, "lost": lost(drive.place, committed)}
                    # Cut between the end of the work and that of the process.
                    whole = work.once and work.result(drive.place) == expected
                    if whole:
                        break
                    process = start(work, drive.place, committed)
                errors = "" if whole else finish(process)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            same = work.result(drive.place) == expected
            warnings = [line for line in errors.splitlines() if "warning" in line]
            yield {"what": name, "run": runs, "same": same, "warnings": warnings}


def training(folder: Path) -> Work:
    """A small run on the digits."""
    program = str(HERE / "committed.py")
    given = (program, "--config=quickstart", *SETTINGS)
    return Work(
        lambda place: [*given, f"--workdir={place / 'run'}"],
        lambda place: what_is_left(place / "run"),
        once=False,
    )


def preparing(folder: Path) -> Work:
    """Some photographs, to be prepared."""
    images = _images(folder / "images", IMAGES)
    given = ("-m", "alexnet_jax.prepare", "--source=folder", f"--input={images}")
    return Work(
        lambda place: [*given, "--size=128", f"--output={place / 'prepared'}"],
        lambda place: files_of(place / "prepared"),
    )


def features(folder: Path) -> Work:
    """A layer of a trained run, of many images."""
    images, run = _images(folder / "images", 4 * IMAGES), folder / "run"
    steps = "--config.train.steps=1"
    main = ("-m", "alexnet_jax.main", "--config=quickstart", f"--workdir={run}")
    subprocess.run([sys.executable, *main, *SETTINGS, steps], check=True)
    given = ("-m", "alexnet_jax.features", f"--workdir={run}", f"--input={images}")
    return Work(
        lambda place: [*given, "--layer=conv1", f"--output={place / 'conv1.npy'}"],
        files_of,
    )


def _images(folder: Path, count: int) -> Path:
    photographs, rng = load_sample_images().images, np.random.default_rng(0)
    for number in range(count):
        place = folder / str(number % 3)
        place.mkdir(parents=True, exist_ok=True)
        row, column = rng.integers(0, 200, 2)
        piece = photographs[number % 2][row : row + 200, column : column + 300]
        Image.fromarray(piece).save(place / f"{number}.jpg")
    return folder


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = {"training": training, "preparing": preparing, "features": features}
    for name, cuts in zip(kinds, (12, 4, 4), strict=True):
        parser.add_argument(f"--{name}", type=int, default=cuts, metavar="CUTS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two cuts of each")
    parser.add_argument("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    if os.geteuid() or not Path("/dev/loop-control").exists():
        parser.error("needs root and loop devices (Linux)")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        parser.error(f"needs {', '.join(missing)}")
    records = []
    with tempfile.TemporaryDirectory(prefix="power_cut_") as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        for name, kind in kinds.items():
            cuts = 2 if given.quick and getattr(given, name) else getattr(given, name)
            if cuts:
                own = Path(folder) / name
                own.mkdir()
                draw = random.Random(given.seed)
                for record in cut_and_continue(name, kind(own), cuts, own, draw):
                    print(json.dumps(record), file=sys.stderr, flush=True)
                    records.append(record)
    result = {
        "experiment": "power_cut",
        "cuts": {n: sum("cut" in r and r["what"] == n for r in records) for n in kinds},
        "runs": sum("same" in record for record in records),
        "different": sum(not record.get("same", True) for record in records),
        "lost": sum(bool(record.get("lost")) for record in records),
        **harness.machine("jax", "orbax-checkpoint", "grain"),
    }
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(record) + "\n" for record in [*records, result]]
        (given.output / "power_cuts.jsonl").write_text("".join(lines))
    print(json.dumps(result))
    if result["different"] or result["lost"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
