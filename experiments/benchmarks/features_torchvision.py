"""Are features of image files faster than torchvision's, in less memory?

    python experiments/benchmarks/features_torchvision.py --output=FOLDER

torchvision's AlexNet with random weights, the same imported here; fc7 of JPEG files
to an NPY file. Ours is `write_features`, in a process that asks for huge pages as the
command `features` does; theirs `create_feature_extractor` behind a DataLoader of 0, 1
and 2 workers, with torchvision's own transforms, of whose rates the best counts. Sides
in turn, each in a process of its own; images a second from the first batch written to
the last, so that starting and compiling are left out. `ratio` is ours over their best.

With `--thingsvision=ENVIRONMENT/bin/python`, an interpreter that has thingsvision, its
extractor is one more side, and `ratio_thingsvision` is ours over its rate.

Memory: each side alone in a process over more images, read from /proc ten times a
second with its children's (Linux): the median of the last tenth, and its growth over
the second tenth. `differences` are the largest of any value over the largest value.

Needs torch and torchvision.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[2]))

if "--side=ours" in sys.argv:
    # As the command does, before the imports that take long.
    from alexnet_jax.runtime import hugepages

    hugepages.use()

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

import harness


WORKERS = (0, 1, 2)


def write_images(folder, count):
    """JPEG files of pieces of photographs, of about ImageNet's size."""
    photographs = load_sample_images().images
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        height, width = rng.integers(300, 420), rng.integers(380, 600)
        row, column = rng.integers(0, 427 - height), rng.integers(0, 640 - width)
        piece = photographs[number % 2][row : row + height, column : column + width]
        Image.fromarray(piece).save(folder / f"{number:06d}.jpg", quality=90)


def make_network(folder):
    """The weights as a state dictionary, and imported."""
    import torch  # pyright: ignore[reportMissingImports]
    import torchvision  # pyright: ignore[reportMissingImports]

    from alexnet_jax import load_config
    from alexnet_jax.interop.importing import ORIGINS, import_weights
    from alexnet_jax.runs.config import plain

    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None)
    torch.save(network.state_dict(), folder / "alexnet.pth")
    settings = plain(load_config("imagenet", "owt"))
    import_weights(folder / "alexnet.pth", folder / "run", settings, ORIGINS["owt"])


def ours(folder, images, output):
    """Features of a folder; images a second."""
    from alexnet_jax.inference import feature_store
    from alexnet_jax.inference.extraction import BATCH_SIZE, write_features

    append, written = feature_store.Output.append, []

    def timed(self, columns, names, labels, refused):
        append(self, columns, names, labels, refused)
        written.append(time.perf_counter())

    feature_store.Output.append = timed
    try:
        write_features(folder / "run", images, "fc7", output)
    finally:
        feature_store.Output.append = append
    total = len(list(images.iterdir()))
    return (total - BATCH_SIZE) / (written[-1] - written[0])


def theirs(folder, images, output, workers, batch_size):
    """The same by torchvision."""
    import torch  # pyright: ignore[reportMissingImports]
    import torchvision  # pyright: ignore[reportMissingImports]
    from torchvision.models import (  # pyright: ignore[reportMissingImports]
        feature_extraction,
    )

    network = torchvision.models.alexnet(weights=None).eval()
    network.load_state_dict(torch.load(folder / "alexnet.pth"))
    extractor = feature_extraction.create_feature_extractor(network, ["classifier.5"])
    files: Any = Files(images)
    loader = torch.utils.data.DataLoader(
        files,
        batch_size=batch_size,
        num_workers=workers,
        # A fork of a process that runs JAX may hang.
        multiprocessing_context="spawn" if workers else None,
    )
    total = len(files)
    rows = np.lib.format.open_memmap(output, "w+", np.float32, (total, 4096))
    written = []
    with torch.inference_mode():
        for number, batch in enumerate(loader):
            values = extractor(batch)["classifier.5"].numpy()
            start = number * batch_size
            rows[start : start + len(values)] = values
            written.append(time.perf_counter())
    rows.flush()
    return (total - batch_size) / (written[-1] - written[0])


class Files:
    """A folder's images behind torchvision's own transforms."""

    def __init__(self, folder):
        import torchvision  # pyright: ignore[reportMissingImports]

        weights = torchvision.models.AlexNet_Weights.IMAGENET1K_V1
        self.paths, self.transforms = sorted(folder.iterdir()), weights.transforms()

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.transforms(Image.open(self.paths[index]).convert("RGB"))


def alone(folder, images, output, side, workers=0, batch_size=1):
    """The command of a process that runs one side, and prints its rate."""
    if isinstance(side, Path):
        script = Path(__file__).with_name("features_thingsvision.py")
        return [*map(str, (side, script, folder, images, output))]
    return [
        *(sys.executable, __file__, f"--side={side}", f"--workers={workers}"),
        *(f"--folder={folder}", f"--files={images}", f"--features={output}"),
        f"--batch_size={batch_size}",
    ]


def rates(folder, images, rounds, thingsvision, batch_size):
    def rate(output, side, workers=0):
        command = alone(folder, images, output, side, workers, batch_size)
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        output.with_suffix(".csv").unlink(missing_ok=True)
        return float(done.stdout.splitlines()[-1])

    def one(side, workers=0):
        output = folder / f"{time.monotonic_ns()}.npy"
        found = rate(output, side, workers)
        output.unlink()
        return found

    sides = {"ours": lambda: one("ours")}
    for workers in WORKERS:
        name = f"torchvision, {workers} workers"
        sides[name] = lambda workers=workers: one("theirs", workers)
    every = {"ours": "ours", "torchvision": "theirs"}
    if thingsvision:
        sides["thingsvision"] = lambda: one(thingsvision)
        every["thingsvision"] = thingsvision
    found = {}
    for name, side in every.items():
        path = folder / f"first_{name}.npy"
        rate(path, side)
        found[name] = np.load(path)
    own = found.pop("ours")
    differences = {
        name: float(np.abs(own - values).max() / np.abs(values).max())
        for name, values in found.items()
    }
    return harness.in_turn(sides, rounds), differences


def resident(process):
    """Bytes that a process and its children hold."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(
                line.split(":", 1)
                for line in path.read_text().splitlines()
                if ":" in line
            )
        except OSError:
            continue
        if str(process) in (fields["Pid"].strip(), fields["PPid"].strip()):
            total += int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
    return total


def memory(folder, images, side, batch_size):
    """Of a side alone in a process: median of the last tenth, and growth."""
    output = folder / "many.npy"
    samples = []
    command = alone(folder, images, output, side, 2, batch_size)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            samples.append(resident(process.pid))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{side} ended with status {process.returncode}")
    for path in folder.glob("many.*"):
        path.unlink()
    tenth = max(1, len(samples) // 10)
    late = statistics.median(samples[-tenth:])
    return {
        "bytes": late,
        "growth": late / statistics.median(samples[tenth : 2 * tenth]) - 1,
        "peak": max(samples),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=int, default=2000, help="in a round")
    add("--rounds", type=int, default=7)
    add("--batch_size", type=int, default=64, help="of torchvision's loader")
    add("--many", type=int, default=20_000, help="images for the memory; 0 for none")
    add("--thingsvision", type=Path, help="an interpreter that has it")
    add("--output", type=Path, help="folder for the raw results")
    add("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    add("--files", type=Path, help=argparse.SUPPRESS)
    add("--features", type=Path, help=argparse.SUPPRESS)
    add("--workers", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side == "ours":
        print(ours(given.folder, given.files, given.features))
        return
    if given.side == "theirs":
        print(
            theirs(
                given.folder,
                given.files,
                given.features,
                given.workers,
                given.batch_size,
            )
        )
        return
    # Before what takes long: the commit that is measured.
    about = harness.machine("jax", "torch", "torchvision", "pillow")
    with tempfile.TemporaryDirectory(prefix="features_") as name:
        folder = Path(name)
        make_network(folder)
        write_images(folder / "images", given.images)
        measured, differences = rates(
            folder,
            folder / "images",
            given.rounds,
            given.thingsvision,
            given.batch_size,
        )
        held = {}
        if given.many:
            write_images(folder / "many", given.many)
            every = {"ours": "ours", "torchvision": "theirs"}
            if given.thingsvision:
                every["thingsvision"] = given.thingsvision
            held = {
                name: memory(folder, folder / "many", side, given.batch_size)
                for name, side in every.items()
            }
    medians = harness.medians(measured)
    peers = [name for name in medians if name.startswith("torchvision")]
    best = max(peers, key=medians.__getitem__)
    result = {
        "benchmark": "features_torchvision",
        "unit": "images per second, from the first batch written to the last",
        "medians": medians,
        "best_peer": best,
        "ratio": harness.ratio(measured, "ours", best)["median"],
        "ratios": harness.ratio(measured, "ours", best),
        "differences": differences,
        "memory": held,
        "rounds": measured,
        **about,
    }
    if given.thingsvision:
        result["ratio_thingsvision"] = harness.ratio(measured, "ours", "thingsvision")
    harness.write(json.loads(json.dumps(result)), given.output)


if __name__ == "__main__":
    main()
