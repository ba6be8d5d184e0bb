"""Are features of image files faster than torchvision's, in less memory?

    python experiments/benchmarks/features_torchvision.py --output=FOLDER

torchvision's AlexNet with random weights, the same imported here; fc7 of JPEG files
to an NPY file. Ours is `write_features`; theirs `create_feature_extractor` behind a
DataLoader of 0, 1 and 2 workers, with torchvision's own transforms, of whose rates the
best counts. Sides in turn; images a second from the first batch written to the last,
so that starting and compiling are left out. `ratio` is ours over their best.

Memory: each side alone in a process over more images, read from /proc ten times a
second with its children's (Linux): the median of the last tenth, and its growth over
the second tenth. `difference` is the largest of any value over the largest value.

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

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

import harness


BATCH_SIZE = 64
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
    from alexnet_jax.inference.extraction import write_features

    append, written = feature_store.Output.append, []

    def timed(self, columns, names, labels, refused):
        append(self, columns, names, labels, refused)
        written.append(time.perf_counter())

    feature_store.Output.append = timed
    try:
        write_features(folder / "run", images, "fc7", output, batch_size=BATCH_SIZE)
    finally:
        feature_store.Output.append = append
    return (len(written) - 1) * BATCH_SIZE / (written[-1] - written[0])


def theirs(folder, images, output, workers):
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
        files, batch_size=BATCH_SIZE, num_workers=workers
    )
    total = len(files)
    rows = np.lib.format.open_memmap(output, "w+", np.float32, (total, 4096))
    written = []
    with torch.inference_mode():
        for number, batch in enumerate(loader):
            values = extractor(batch)["classifier.5"].numpy()
            start = number * BATCH_SIZE
            rows[start : start + len(values)] = values
            written.append(time.perf_counter())
    rows.flush()
    return (len(written) - 1) * BATCH_SIZE / (written[-1] - written[0])


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


def rates(folder, images, rounds):
    def output():
        return folder / f"{time.monotonic_ns()}.npy"

    sides = {"ours": lambda: ours(folder, images, output())}
    for workers in WORKERS:
        sides[f"torchvision, {workers} workers"] = lambda workers=workers: theirs(
            folder, images, output(), workers
        )
    first = {name: folder / f"{name}.npy" for name in ("ours", "theirs")}
    ours(folder, images, first["ours"])
    theirs(folder, images, first["theirs"], 0)
    a, b = (np.load(path) for path in first.values())
    difference = float(np.abs(a - b).max() / np.abs(b).max())
    return harness.in_turn(sides, rounds), difference


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


def memory(folder, images, side):
    """Of a side alone in a process: median of the last tenth, and growth."""
    command = [sys.executable, __file__, f"--side={side}", f"--folder={folder}"]
    samples = []
    with subprocess.Popen([*command, f"--files={images}"]) as process:
        while process.poll() is None:
            samples.append(resident(process.pid))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{side} ended with status {process.returncode}")
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
    add("--many", type=int, default=20_000, help="images for the memory; 0 for none")
    add("--output", type=Path, help="folder for the raw results")
    add("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    add("--files", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side == "ours":
        ours(given.folder, given.files, given.folder / "many_ours.npy")
        return
    if given.side == "theirs":
        theirs(given.folder, given.files, given.folder / "many_theirs.npy", 2)
        return
    with tempfile.TemporaryDirectory(prefix="features_") as name:
        folder = Path(name)
        make_network(folder)
        write_images(folder / "images", given.images)
        measured, difference = rates(folder, folder / "images", given.rounds)
        held = {}
        if given.many:
            write_images(folder / "many", given.many)
            held = {s: memory(folder, folder / "many", s) for s in ("ours", "theirs")}
    medians = harness.medians(measured)
    best = max((name for name in medians if name != "ours"), key=medians.__getitem__)
    result = {
        "benchmark": "features_torchvision",
        "unit": "images per second, from the first batch written to the last",
        "medians": medians,
        "best_peer": best,
        "ratio": harness.ratio(measured, "ours", best)["median"],
        "ratios": harness.ratio(measured, "ours", best),
        "difference": difference,
        "memory": held,
        "rounds": measured,
        **harness.machine("jax", "torch", "torchvision", "pillow"),
    }
    harness.write(json.loads(json.dumps(result)), given.output)


if __name__ == "__main__":
    main()
