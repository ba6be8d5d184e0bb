"""How long does `compare` take, in how much memory, and does it agree with others?

    python experiments/benchmarks/compare.py --output=FOLDER \\
        --rsatoolbox=ENVIRONMENT/bin/python

Dissimilarities of 5,000 images by a layer of 4,096 values, correlation: the command
`compare`, which also draws its figure, in turn with processes of
SciPy's `pdist`, of NumPy's `corrcoef`, and of rsatoolbox's `calc_rdm` where an
interpreter that has it is given. Each reads the same NPY file and writes an NPY file.
Seconds are of whole processes, memory is the most that a process held (Linux).
`ratio` is ours over the best peer's, in matrices a second.

Differences are the norm of the difference over the norm, of all three distances to
SciPy's, of correlation and euclidean to rsatoolbox's, and of the debiased CKA of four
layers to the whole matrices of NumPy, in float64.
"""

import argparse
import functools
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

import harness


DISTANCES = ("correlation", "euclidean", "cosine")
WIDTHS = {"fc7": 4096, "fc6": 4096, "conv5": 9216, "noise": 4096}
MIB = 2**20
# Programs of the peers: an NPY of features, a distance, an NPY to write.
SCIPY = """
import sys, numpy as np
from scipy.spatial.distance import pdist, squareform
rows = np.load(sys.argv[1]).astype(np.float64)
np.save(sys.argv[3], squareform(pdist(rows, sys.argv[2])).astype(np.float32))
"""
NUMPY = """
import sys, numpy as np
rows = np.load(sys.argv[1]).astype(np.float64)
np.save(sys.argv[3], (1 - np.corrcoef(rows)).astype(np.float32))
"""
RSATOOLBOX = """
import sys, numpy as np, rsatoolbox
data = rsatoolbox.data.Dataset(np.load(sys.argv[1]).astype(np.float64))
rdm = rsatoolbox.rdm.calc_rdm(data, method=sys.argv[2])
np.save(sys.argv[3], rdm.get_matrices()[0].astype(np.float32))
"""


def write_layers(folder, count):
    """Layers that depend on each other, and one of noise, above zero."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((count, 64), np.float32)
    for name, width in WIDTHS.items():
        rows = rng.standard_normal((count, width), np.float32)
        if name != "noise":
            rows += hidden @ rng.standard_normal((64, width), np.float32) / 4
        np.save(folder / f"{name}.npy", np.maximum(1 + rows, 0))


def measured(command):
    """Seconds that a process takes, and the most bytes that it held (Linux)."""
    peak = 0
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        # `getrusage` counts what this process held when it started the other.
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
            peak = max(peak, 1024 * int(found[1]) if found else 0)
            time.sleep(0.02)
        seconds = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"{command} ended with status {process.returncode}")
    return seconds, peak


def ours(features, distance, output):
    for path in output.parent.glob(f"{output.stem}.*"):
        path.unlink()
    return [
        *(sys.executable, "-m", "alexnet_jax.compare", f"--features={features}"),
        *(f"--distance={distance}", f"--output={output}"),
    ]


def peer(python, program, features, distance, output):
    return [python, "-c", program, str(features), distance, str(output)]


def differing(found, expected):
    """The norm of the difference over the norm, a block of rows at a time."""
    wrong = whole = 0.0
    for one, other in zip(found, expected, strict=True):
        wrong += float(((one.astype(np.float64) - other) ** 2).sum())
        whole += float((other.astype(np.float64) ** 2).sum())
    return (wrong / whole) ** 0.5


def speeds(folder, commands, rounds):
    """Matrices a second of every side, and the most memory of each."""
    peaks = {name: 0 for name in commands}

    def run(name):
        command = commands[name]
        seconds, peak = measured(command("correlation", folder / f"rdm_{name}.npy"))
        peaks[name] = max(peaks[name], peak)
        return 1 / seconds

    sides = {name: functools.partial(run, name) for name in commands}
    return harness.in_turn(sides, rounds), peaks


def differences(folder, commands, width):
    """To SciPy by every distance, and to rsatoolbox by those that it has."""
    found = {}
    for distance in DISTANCES:
        matrices = {}
        for name in ("ours", "scipy", "rsatoolbox"):
            if name not in commands or (name, distance) == ("rsatoolbox", "cosine"):
                continue
            path = folder / f"of_{name}_{distance}.npy"
            measured(commands[name](distance, path))
            matrices[name] = np.load(path, mmap_mode="r")
        own = matrices.pop("ours")[0]
        for name, matrix in matrices.items():
            if (name, distance) == ("rsatoolbox", "euclidean"):
                # Its euclidean is the mean square of the differences.
                matrix = np.sqrt(np.maximum(matrix, 0) * np.float32(width))
            found[f"{distance}, {name}"] = differing(own, matrix)
    return found


def direct_cka(folder):
    """Song et al.'s estimator on whole matrices."""
    grams = []
    for name in WIDTHS:
        rows = np.load(folder / f"{name}.npy").astype(np.float64)
        rows -= rows.mean(axis=0)
        gram = rows @ rows.T
        np.fill_diagonal(gram, 0)
        grams.append(gram)
    n = len(grams[0])

    def hsic(k, m):
        return (
            (k * m).sum()
            + k.sum() * m.sum() / ((n - 1) * (n - 2))
            - 2 / (n - 2) * k.sum(axis=0) @ m.sum(axis=0)
        )

    own = [hsic(k, k) for k in grams]
    return [
        [hsic(k, m) / (own[i] * own[j]) ** 0.5 for j, m in enumerate(grams)]
        for i, k in enumerate(grams)
    ]


def four_layers(folder, count):
    """Memory and CKA of four layers in one file, against NumPy."""
    import h5py

    path = folder / "layers.h5"
    with h5py.File(path, "w") as file:
        for name in WIDTHS:
            file[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
        file["name"] = [f"{number}.jpg" for number in range(count)]
        file["label"] = np.zeros(count, np.int32)
    seconds, peak = measured(ours(path, "correlation", folder / "four.npy"))
    about = json.loads((folder / "four.json").read_text())
    order = [list(WIDTHS).index(name) for name in about["cka_rows"]]
    expected = np.asarray(direct_cka(folder))[np.ix_(order, order)]
    difference = float(np.abs(np.asarray(about["cka"]) - expected).max())
    return {"seconds": seconds, "peak": peak, "cka_difference": difference}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=int, default=5000)
    add("--rounds", type=int, default=7)
    add("--rsatoolbox", type=Path, help="an interpreter that has it")
    add("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compare_") as name:
        folder = Path(name)
        write_layers(folder, given.images)
        features = folder / "fc7.npy"
        one = functools.partial(peer, sys.executable)
        commands = {
            "ours": functools.partial(ours, features),
            "scipy": functools.partial(one, SCIPY, features),
            "numpy": functools.partial(one, NUMPY, features),
        }
        if given.rsatoolbox:
            other = functools.partial(peer, given.rsatoolbox, RSATOOLBOX, features)
            commands["rsatoolbox"] = other
        measured_rates, peaks = speeds(folder, commands, given.rounds)
        found = differences(folder, commands, WIDTHS["fc7"])
        layers = four_layers(folder, given.images)
    medians = harness.medians(measured_rates)
    best = max((name for name in medians if name != "ours"), key=medians.__getitem__)
    result = {
        "benchmark": "compare",
        "unit": "matrices per second",
        "images": given.images,
        "medians": medians,
        "seconds": {name: 1 / rate for name, rate in medians.items()},
        "best_peer": best,
        "ratio": harness.ratio(measured_rates, "ours", best)["median"],
        "ratios": harness.ratio(measured_rates, "ours", best),
        "mebibytes": {name: peak / MIB for name, peak in peaks.items()},
        "differences": found,
        "four_layers": layers,
        "rounds": measured_rates,
        **harness.machine("numpy", "scipy", "h5py"),
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
