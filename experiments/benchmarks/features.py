"""Are features stored as fast as the network computes them, in constant memory?

    python experiments/benchmarks/features.py --output=FOLDER

Speed: the 2012 network at its full size with random weights, fc7 of JPEG images of a
prepared set, to Zarr and to NPY, in turn with the bare network on one batch that stays
on the device. `ratio` is Zarr's speed over the bare network's.

Memory: a small network over 50,000 images of a prepared set, in a separate process
whose memory is read from /proc ten times a second (Linux); `growth` is the median of
the last tenth of the time over that of the second tenth, less one, from when the output
is there. Two layers to Zarr, and two
with a random projection to HDF5; the latter once more with a process that is killed
three times and continued, whose `same_bytes` must be true.

`--only=speed` and `--only=memory` run one of the two, each of which has a file of raw
results of its own.
"""

import argparse
import functools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
from PIL import Image

from alexnet_jax import load_config
from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.data.prepared.preparation import prepare
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import mesh, placement
from alexnet_jax.inference import feature_store
from alexnet_jax.inference.extraction import write_features
from alexnet_jax.inference.trained import open_trained
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import run_data
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import plain, section
from alexnet_jax.training import step
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.schedule import make_schedule

import harness


CLASSES = 10


def make_workdir(workdir, size, crop, changes):
    """A work directory of a network with random weights."""
    config = load_config("imagenet")
    config.model.update(changes)
    config.data.crop = crop
    settings = plain(config)
    model = AlexNet(num_classes=CLASSES, **section(settings, "model"))
    workdir.mkdir()
    workdirs.start_run(workdir, settings)
    names = tuple(f"class{n}" for n in range(CLASSES))
    grey = Statistics(np.full((size, size, 3), 120, np.float32), np.ones(3), np.eye(3))
    run_data.write_data(workdir, run_data.Data(names, size, crop, "drawn", grey))
    optimizer = momentum_sgd(make_schedule(steps_per_epoch=1.0))
    state = step.init_state(model, optimizer, mesh.one_device(), crop, 0)
    with CheckpointWriter(workdir / workdirs.CHECKPOINTS) as checkpoints:
        checkpoints.save(0, state)


def make_data(folder, count, size):
    """A prepared set of so many smooth images."""
    rng = np.random.default_rng(0)
    images = folder / "images"
    for number in range(count):
        place = images / "validation" / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size)).save(place / f"{number}.jpg")
        if number < CLASSES:
            train = images / "train" / f"class{number}"
            train.mkdir(parents=True)
            Image.fromarray(coarse).save(train / "0.png")
    prepare(
        source="folder",
        input_path=str(images),
        output=folder / "prepared",
        size=size,
    )


def rates(folder, images, batch_size, rounds):
    make_data(folder, images, 256)
    make_workdir(folder / "run", 256, 224, {})
    one = mesh.one_device()
    extract = open_trained(folder / "run", "latest").extractor(one, ("fc7",))
    host = {"image": np.zeros((batch_size, 256, 256, 3), np.uint8)}
    batch = placement.to_devices(host, one)

    def bare():
        out = None
        begin = time.perf_counter()
        for _ in range(images // batch_size):
            out = extract(batch)
        jax.block_until_ready(out)
        return images / (time.perf_counter() - begin)

    append, written = feature_store.Output.append, []

    def timed(self, columns, names, labels, refused):
        append(self, columns, names, labels, refused)
        written.append(time.perf_counter())

    feature_store.Output.append = timed

    def stream(ending):
        written.clear()
        output = folder / f"{time.monotonic_ns()}.{ending}"
        write_features(
            folder / "run",
            folder / "prepared",
            ["fc7"],
            output,
            batch_size=batch_size,
        )
        # From the first batch written to the last: restoring and compiling come before.
        return (len(written) - 1) * batch_size / (written[-1] - written[0])

    bare()
    sides = {
        "zarr": functools.partial(stream, "zarr"),
        "npy": functools.partial(stream, "npy"),
        "bare": bare,
    }
    return harness.in_turn(sides, rounds)


def command(folder, name, *more):
    return [
        *(sys.executable, "-m", "alexnet_jax.features", f"--workdir={folder / 'run'}"),
        *(f"--input={folder / 'prepared'}", "--layer=fc7,conv5", *more),
        f"--output={folder / name}",
    ]


def memory(folder, images, name, *more):
    """How the memory of a process grows, and its seconds."""
    samples, starting = [], 0
    begin = time.monotonic()
    with subprocess.Popen(
        command(folder, name, *more), stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            text = Path(f"/proc/{process.pid}/status").read_text()
            line = [part for part in text.splitlines() if part.startswith("VmRSS")]
            if line:
                samples.append(int(line[0].split()[1]) * 1024)
            if not (folder / name).exists():
                starting = len(samples)
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"features ended with status {process.returncode}")
    # Imports and the restoring of the network come before the output.
    working = samples[starting:]
    tenth = len(working) // 10
    early = statistics.median(working[tenth : 2 * tenth])
    late = statistics.median(working[-tenth:])
    return {
        "images": images,
        "seconds": time.monotonic() - begin,
        "growth": late / early - 1,
        "seconds_of_start": starting / 10,
        "peak": max(samples),
        "samples": samples[:: max(1, len(samples) // 200)],
    }


def same_after_kills(folder, whole, measured, name, *more):
    """Whether a process that is killed thrice at work ends with another's bytes."""
    working = measured["seconds"] - measured["seconds_of_start"]
    for part in (0.3, 0.3, 0.2):
        with subprocess.Popen(
            command(folder, name, *more), stdout=subprocess.DEVNULL
        ) as process:
            time.sleep(measured["seconds_of_start"] + part * working)
            if process.poll() is not None:
                raise SystemExit("features ended before it was killed")
            process.kill()
    subprocess.run(command(folder, name, *more), check=True, stdout=subprocess.DEVNULL)
    return (folder / name).read_bytes() == (folder / whole).read_bytes()


def streams(folder, images):
    """Memory of two formats, and what kills leave."""
    make_data(folder, images, 77)
    make_workdir(folder / "run", 77, 67, {"layers": harness.TINY_ROWS})
    grown = memory(folder, images, "features.zarr")
    hdf5 = memory(folder, images, "features.h5", "--project=64")
    same = same_after_kills(folder, "features.h5", hdf5, "killed.h5", "--project=64")
    return grown, {**hdf5, "same_bytes": same}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=int, default=512, help="in a round")
    add("--batch_size", type=int, default=64)
    add("--rounds", type=int, default=7)
    add("--many", type=int, default=50_000, help="images for the memory")
    add("--only", choices=("speed", "memory"), help="one of the two (default: both)")
    add("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    about = harness.machine("jax", "zarr", "h5py")
    if given.only != "speed":
        with tempfile.TemporaryDirectory(prefix="features_") as name:
            grown, hdf5 = streams(Path(name), given.many)
        held = {"benchmark": "features_memory", "zarr": grown, "hdf5": hdf5}
        harness.write({**held, **about}, given.output)
    if given.only == "memory":
        return
    with tempfile.TemporaryDirectory(prefix="features_") as name:
        measured = rates(Path(name), given.images, given.batch_size, given.rounds)
    result = {
        "benchmark": "features",
        "unit": "images per second, from the first batch written to the last",
        "medians": harness.medians(measured),
        "ratio": harness.ratio(measured, "zarr", "bare")["median"],
        "ratios": {
            side: harness.ratio(measured, side, "bare") for side in ("zarr", "npy")
        },
        "rounds": measured,
        **about,
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
