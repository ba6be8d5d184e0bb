"""How fast is preparing ImageNet's archives, and how much memory does it take?

Builds archives in ImageNet's layout from a folder of originals (their names begin with
their WNID), each repeated. Then, in turn: the whole command `prepare` on all cores, its
start included, and one core's bare speed of decoding, resizing and encoding the same
files from memory; `ratio` is the first over the cores times the second. Memory is the
sum over all processes of the command (proportional set size), read ten times a second
in separate runs, for these archives and for archives of a tenth of the images.

    python experiments/benchmarks/preparing.py --originals=IMAGES --work=FOLDER \
        --output=experiments/benchmarks/preparing
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import scipy.io

from alexnet_jax.data import decoding

import harness


SIZE = 256


def add(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_archives(root, originals, repeats):
    """Every image `repeats` times in training, and once in validation."""
    if root.exists():
        return
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    by_class = {}
    for file in originals:
        by_class.setdefault(file.name.split("_")[0], []).append(file)
    numbers = {wnid: number + 1 for number, wnid in enumerate(sorted(by_class))}
    truth = []
    with (
        tarfile.open(part / "ILSVRC2012_img_train.tar", "w") as train,
        tarfile.open(part / "ILSVRC2012_img_val.tar", "w") as validation,
    ):
        for wnid, files in sorted(by_class.items()):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for serial in range(repeats):
                    for file in files:
                        # In the order of the names, as folders are listed.
                        name = f"{wnid}_{serial:04d}{file.stem}.JPEG"
                        add(inner, name, file.read_bytes())
            add(train, f"{wnid}.tar", buffer.getvalue())
            for file in files:
                truth.append(numbers[wnid])
                name = f"ILSVRC2012_val_{len(truth):08d}.JPEG"
                add(validation, name, file.read_bytes())
    fields = ["ILSVRC2012_ID", "WNID", "words", "num_children"]
    rows = [(number, wnid, wnid, 0) for wnid, number in numbers.items()]
    synsets = np.array(rows, [(field, object) for field in fields]).reshape(-1, 1)
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    with tarfile.open(part / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as kit:
        folder = "ILSVRC2012_devkit_t12/data"
        add(kit, f"{folder}/meta.mat", meta.getvalue())
        lines = "".join(f"{number}\n" for number in truth).encode()
        add(kit, f"{folder}/ILSVRC2012_validation_ground_truth.txt", lines)
    part.rename(root)


def bare(originals):
    """One core's images a second, in a separate process."""
    program = f"""
import sys, time
from pathlib import Path
from alexnet_jax.data import decoding
files = [Path(name).read_bytes() for name in sys.argv[1:]]
begin = time.perf_counter()
for data in files:
    decoding.encode_jpeg(decoding.decode(data, "image", size={SIZE}).image)
print(len(files) / (time.perf_counter() - begin))
"""
    command = [sys.executable, "-c", program, *map(str, originals)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=harness.ROOT
    )
    return float(done.stdout)


def memory_of(group):
    """Bytes of all processes of a group, shared pages counted once."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) != group:
                continue
            for line in (folder / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except (OSError, ProcessLookupError):
            continue
    return total


def prepare(root, output, watched=False, source="imagenet"):
    """Seconds, result, and peak memory of the command where it is watched."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "alexnet_jax.prepare", f"--source={source}"]
    command += [f"--input={root}", f"--output={output}", f"--size={SIZE}"]
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=harness.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    peak = 0
    while watched and process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.1)
    result = json.loads(process.communicate()[0].splitlines()[-1])
    seconds = time.perf_counter() - begin
    return seconds, result, peak


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--originals", type=Path, required=True, help="folder of images")
    add("--work", type=Path, required=True, help="folder for the archives")
    add("--output", type=Path, help="folder for the raw results")
    add("--repeats", type=int, default=19, help="of each image in training")
    add("--rounds", type=int, default=7)
    given = parser.parse_args()
    originals = sorted(
        file
        for file in given.originals.iterdir()
        if file.suffix in decoding.ENDINGS or file.suffix == ".JPEG"
    )
    roots = {}
    for part, repeats in (("all", given.repeats), ("tenth", given.repeats // 10)):
        roots[part] = given.work / f"archives{repeats}"
        write_archives(roots[part], originals, repeats)
    prepared = given.work / "prepared"

    def whole():
        seconds, result, _ = prepare(roots["all"], prepared)
        return (result["train"] + result["validation"]) / seconds

    measured = harness.in_turn(
        {"prepare": whole, "bare": lambda: bare(originals)}, given.rounds
    )
    # Apart from the rounds, because looking takes time.
    watched = {part: prepare(root, prepared, True) for part, root in roots.items()}
    cores = len(os.sched_getaffinity(0))
    ratio = harness.ratio(measured, "prepare", "bare", cores)
    result = {
        "benchmark": "preparing",
        "unit": "images per second",
        "images": len(originals) * (given.repeats + 1),
        "bytes": statistics.mean(file.stat().st_size for file in originals),
        "medians": harness.medians(measured),
        "ratio": ratio["median"],
        "ratio_spread": [ratio["smallest"], ratio["largest"]],
        "peak_memory": {
            part: {"bytes": peak, "images": found["train"] + found["validation"]}
            for part, (_, found, peak) in watched.items()
        },
        "repaired": watched["all"][1]["repaired"],
        "rounds": measured,
        **harness.machine("simplejpeg", "pillow", "numpy", "array_record"),
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
