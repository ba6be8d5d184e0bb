"""A4: how many images a second does the whole program train, and the host alone?

`main` trains `code2012` on prepared shards of some thousand photographs, raw and JPEG:
images a second and the part of the time it waited for data, with images read from the
host for every step, and held on the device. Then the host alone: the CPU time of an
image, part of it under the interpreter's lock, and images a second by threads and
workers (`experiments/benchmarks/input_pipeline.py`).

Results are lines of OUT/a4.jsonl. What stands there is not measured again. `--dry` runs
all of it in small on a CPU.
"""

import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

import pieces


# isort: split

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from alexnet_jax.runtime import cli

import experiment
from commands import command, quick
from pieces import Piece


BENCHMARK = experiment.ROOT / "experiments" / "benchmarks" / "input_pipeline.py"
# Of ImageNet's middle: 500 x 375.
WIDTH, HEIGHT = 500, 375
IMAGES, STEPS, BATCH = 4096, 120, 1024


def originals(folder: Path, count: int) -> Path:
    """Class folders of so many pieces of two photographs."""
    done = folder / "originals"
    if done.exists():
        return done
    part = folder / "originals.part"
    photographs = load_sample_images().images
    draws = np.random.default_rng(0)
    places = draws.integers(0, [427 - HEIGHT, 640 - WIDTH], (count, 2))

    def write(number: int) -> None:
        split = "val" if number % 16 == 0 else "train"
        place = part / split / f"photograph{number // 2 % 2}"
        place.mkdir(parents=True, exist_ok=True)
        row, column = places[number]
        photograph = photographs[number // 2 % 2]
        piece = photograph[row : row + HEIGHT, column : column + WIDTH]
        Image.fromarray(piece).save(place / f"{number}.jpg", quality=92)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))
    return part.rename(done)


def prepared(dry: bool, output: Path, form: str) -> Path:
    """A prepared set of them."""
    work = output / "a4"
    count = 64 if dry else IMAGES
    folder = work / form
    if folder.exists():
        return folder
    arguments = (f"--input={originals(work, count)}", f"--output={folder}")
    command(
        "prepare", "--source=folder", *arguments, f"--encoding={form}", "--size=256"
    )
    return folder


def whole(dry: bool, output: Path, form: str, hold: str) -> dict[str, float]:
    """Images a second of the whole program, over the second half of its steps."""
    data = prepared(dry, output, form)
    workdir = output / "a4" / f"run-{form}-{hold}"
    steps = 4 if dry else STEPS
    command(
        "main",
        "--no-report",
        "--config=imagenet",
        f"--config.data.path={data}",
        f"--config.data.hold={hold}",
        "--config.model.dtype=bfloat16",
        f"--config.model.implementation={'xla' if dry else 'fused'}",
        *(quick("code2012") if dry else [f"--config.train.batch_size={BATCH}"]),
        f"--config.train.steps={steps}",
        f"--config.train.validate_steps={steps}",
        f"--workdir={workdir}",
    )
    lines = experiment.metrics_of(workdir, "train")
    late = lines[len(lines) // 2 :]
    rates = [line["images_per_second"] for line in late]
    waits = [line["input_wait_fraction"] for line in late]
    return {
        "images_per_second": round(statistics.median(rates), 1),
        "smallest": round(min(rates), 1),
        "largest": round(max(rates), 1),
        "input_wait_fraction": round(statistics.mean(waits), 4),
    }


def host(dry: bool, output: Path, form: str, what: str) -> object:
    """What the benchmark of the input pipeline says."""
    work = output / "a4"
    amount = ("--rounds=1", "--batches=1") if dry else ("--rounds=3", "--batches=64")
    return pieces.last_line(
        BENCHMARK,
        f"--originals={originals(work, 64 if dry else IMAGES)}",
        *(f"--work={work}", f"--forms={form}", f"--parts={what}", *amount),
    )


def pieces_of(dry: bool, output: Path) -> list[Piece]:
    """The part's pieces."""

    def main(form: str, hold: str) -> Piece:
        name = {"what": "main", "form": form, "hold": hold}
        return Piece(name, partial(whole, dry, output, form, hold), 90)

    def alone(what: str, form: str, seconds: float) -> Piece:
        name = {"what": what, "form": form}
        return Piece(name, partial(host, dry, output, form, what), seconds)

    if dry:
        return [main("raw", "device"), alone("costs", "raw", 30)]
    return [
        *(main("raw", hold) for hold in ("device", "host")),
        main("jpeg", "host"),
        *(alone("costs", form, 30) for form in ("raw", "jpeg")),
        *(alone("sweep", form, 75) for form in ("raw", "jpeg")),
    ]


def main() -> None:
    """The part."""
    pieces.run("a4", __doc__, pieces_of, "grain", "simplejpeg")


if __name__ == "__main__":
    cli.run_command(main)
