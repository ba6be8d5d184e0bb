"""How many images a second does the input pipeline make, and its peers?

From the same images, each side makes batches of 128 flipped crops of 224:

    ours          this project's pipeline, threads by default: uint8 and a colour shift
    plain         two plain threads that decode, crop, flip and write into a batch,
                  from memory: what Python allows
    one_core      one thread of the same, from the files
    decode        one thread that decodes and throws away, from memory
    pillow        PyTorch's DataLoader as torchvision writes it: ImageFolder, Pillow,
                  float32, mean and deviation on the host
    pillow_uint8  the same, delivering uint8
    fast          PyTorch's DataLoader with the same fast decoder, uint8
    tf_data       tf.data with decode_and_crop_jpeg, where TensorFlow is installed

Every side runs in a separate process, in turn. PyTorch's sides first run with 0, 1 and
2 workers; the best then runs in the rounds. Needs torch and torchvision, and a folder
of class folders of images:

    python experiments/benchmarks/input_pipeline.py --originals=IMAGES --work=FOLDER \
        --output=experiments/benchmarks/input_pipeline

`--parts=costs` measures this project's side alone, without PyTorch: the CPU time of one
image, and the part of it under the interpreter's lock. `--parts=sweep` measures images
a second by threads and workers, up to the cores of the machine.
"""

import argparse
import importlib.util
import subprocess
import sys
import threading
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from alexnet_jax.data import decoding
from alexnet_jax.data.encoded import EncodedSource
from alexnet_jax.data.loading import grain_datasets, pipeline, prefetch
from alexnet_jax.data.prepared import record
from alexnet_jax.data.prepared.preparation import prepare
from alexnet_jax.data.sources import registry

import harness
import host_path


BATCH, CROP, SIZE = 128, 224, 256
FORMS = ("jpeg", "raw", "originals")
PARTS = ("peers", "costs", "sweep")
UNITS = {"costs": "microseconds of CPU an image", "sweep": "images per second"}


def batches_of(batches, count):
    """Images a second of `count` batches, without the first."""
    iterator = iter(batches)
    next(iterator)
    begin = time.perf_counter()
    for _ in range(count):
        next(iterator)
    return count * BATCH / (time.perf_counter() - begin)


def ours(form, work, count, workers):
    source = "folder" if form == "originals" else "prepared"
    read = pipeline.open_pipeline(source=source, path=str(work / form), workers=workers)
    statistics = pipeline.open_pipeline(path=str(work / "jpeg")).dataset.statistics
    assert statistics is not None
    dataset = grain_datasets.train_dataset(read, statistics, batch_size=BATCH, seed=0)
    with prefetch.read(read, dataset) as batches:
        return batches_of(batches, count)


def read_files(form, work, count):
    """The encoded images of `count` batches, in memory."""
    source = opened(form, work)
    order = np.random.default_rng(0).permutation(len(source))[: count * BATCH]
    if form == "originals":
        assert isinstance(source, EncodedSource)
        return [source.encoded(int(index)).data for index in order]
    assert isinstance(source, record.PreparedSource)
    return [bytes(record.unpack(source._records[int(i)]).image) for i in order]


def opened(form, work):
    source = "folder" if form == "originals" else "prepared"
    return registry.open_dataset(
        source=source, path=str(work / form), size=SIZE, validation_fraction=0.1
    ).splits["train"]


def decoded(form, data):
    if form == "originals":
        return decoding.decode(data, "image", size=SIZE).image
    return record.decode(memoryview(data), form, SIZE)


def crop_into(batch, place, image, rng):
    row, column = rng.integers(0, SIZE - CROP + 1, 2)
    view = image[row : row + CROP, column : column + CROP]
    batch[place] = view[:, ::-1] if rng.integers(0, 2) else view


def in_threads(work_on, total, threads):
    """Images a second of a function that is called with every place."""

    def some(part):
        rng = np.random.default_rng(part)
        batch = np.empty((BATCH, CROP, CROP, 3), np.uint8)
        for place in range(part, total, threads):
            work_on(place, batch, rng)

    started = [threading.Thread(target=some, args=(part,)) for part in range(threads)]
    begin = time.perf_counter()
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return total / (time.perf_counter() - begin)


def plain(form, work, count, threads):
    files = read_files(form, work, count)

    def work_on(place, batch, rng):
        crop_into(batch, place % BATCH, decoded(form, files[place]), rng)

    return in_threads(work_on, len(files), threads)


def one_core(form, work, count, _):
    source = opened(form, work)
    total = min(count * BATCH, len(source))
    order = np.random.default_rng(0).permutation(len(source))

    def work_on(place, batch, rng):
        crop_into(batch, place % BATCH, source[int(order[place])]["image"], rng)

    return in_threads(work_on, total, 1)


def decode(form, work, count, _):
    files = read_files(form, work, count)
    return in_threads(lambda place, *_: decoded(form, files[place]), len(files), 1)


def epochs(loader):
    while True:
        yield from loader


def torch_loader(dataset, workers):
    import torch.utils.data  # pyright: ignore[reportMissingImports]

    return torch.utils.data.DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )


def pillow(form, work, count, workers, uint8=False):
    import torchvision  # pyright: ignore[reportMissingImports]

    datasets, transforms = torchvision.datasets, torchvision.transforms
    to_stored = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE)]
    last = [transforms.ToTensor()]
    last.append(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    steps = [
        *(to_stored if form == "originals" else []),
        transforms.RandomCrop(CROP),
        transforms.RandomHorizontalFlip(),
        *([transforms.PILToTensor()] if uint8 else last),
    ]
    folder = work / ("originals" if form == "originals" else "files") / "train"
    dataset = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    return batches_of(epochs(torch_loader(dataset, workers)), count)


def pillow_uint8(form, work, count, workers):
    return pillow(form, work, count, workers, uint8=True)


class FastDataset:
    """An image of the same files by the same decoder, cropped and flipped in NumPy.

    Raw pixels come from one memory-mapped file.
    """

    def __init__(self, form, work):
        self.form = form
        if form == "raw":
            self.pixels = np.load(work / "raw.npy", mmap_mode="r")
        else:
            folder = work / ("originals" if form == "originals" else "files") / "train"
            self.paths = sorted(folder.glob("*/*"))

    def __len__(self):
        return len(self.pixels) if self.form == "raw" else len(self.paths)

    def __getitem__(self, index):
        if self.form == "raw":
            image = self.pixels[index]
        else:
            image = decoded(self.form, self.paths[index].read_bytes())
        row, column = np.random.randint(0, SIZE - CROP + 1, 2)
        view = image[row : row + CROP, column : column + CROP]
        return np.ascontiguousarray(view[:, ::-1] if np.random.rand() < 0.5 else view)


def fast(form, work, count, workers):
    return batches_of(epochs(torch_loader(FastDataset(form, work), workers)), count)


def tf_data(form, work, count, _):
    import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

    folder = work / ("originals" if form == "originals" else "files") / "train"
    paths = [str(path) for path in sorted(folder.glob("*/*"))]

    def load(path):
        data = tf.io.read_file(path)
        if form == "originals":
            image = tf.image.resize(tf.io.decode_jpeg(data, 3), (SIZE, SIZE))
            image = tf.image.random_crop(tf.cast(image, tf.uint8), (CROP, CROP, 3))
        else:
            at = tf.random.uniform((2,), 0, SIZE - CROP + 1, tf.int32)
            window = tf.concat([at, [CROP, CROP]], 0)
            image = tf.io.decode_and_crop_jpeg(data, window, 3)
        return tf.image.random_flip_left_right(image)

    dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    dataset = dataset.map(load, tf.data.AUTOTUNE).batch(BATCH).prefetch(2)
    return batches_of(dataset.as_numpy_iterator(), count)


SIDES = {
    "ours": ours,
    "plain": plain,
    "one_core": one_core,
    "decode": decode,
    "pillow": pillow,
    "pillow_uint8": pillow_uint8,
    "fast": fast,
    "tf_data": tf_data,
}
OF_TORCH = ("pillow", "pillow_uint8", "fast")


def sides_of(form):
    if form == "raw":
        return ("ours", "plain", "one_core", "fast")
    found = ["ours", "plain", "one_core", "decode", *OF_TORCH]
    if importlib.util.find_spec("tensorflow"):
        found.append("tf_data")
    return tuple(found)


def in_a_process(side, form, given, workers):
    command = [sys.executable, __file__, f"--side={side}", f"--form={form}"]
    command += [f"--work={given.work}", f"--batches={given.batches}"]
    done = subprocess.run(
        [*command, f"--workers={workers}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def make_prepared(originals, work):
    """The same images, prepared."""
    work.mkdir(parents=True, exist_ok=True)
    link = work / "originals"
    if not link.exists():
        link.symlink_to(originals.resolve())
    for form in ("jpeg", "raw"):
        if not (work / form).exists():
            prepare(
                source="folder", input_path=str(link), output=work / form, encoding=form
            )


def make_files(work):
    """The same images in every form that a peer reads."""
    source = opened("jpeg", work)
    assert isinstance(source, record.PreparedSource)
    if not (work / "files").exists():
        part = work / "files.part"
        for index in range(len(source)):
            found = record.unpack(source._records[index])
            path = part / "train" / f"{found.label:04d}" / f"{index:07d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(found.image)
        part.rename(work / "files")
    if not (work / "raw.npy").exists():
        raw = opened("raw", work)
        shape = (len(raw), SIZE, SIZE, 3)
        part = work / "raw.part.npy"
        pixels = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
        for index in range(len(raw)):
            pixels[index] = raw[index]["image"]
        pixels.flush()
        part.rename(work / "raw.npy")


def compare(form, given):
    workers = {}
    for side in OF_TORCH:
        if side in sides_of(form):
            rates = {n: in_a_process(side, form, given, n) for n in (0, 1, 2)}
            workers[side] = max(rates, key=rates.__getitem__)
            print(f"{form} {side} by workers: {rates}", file=sys.stderr)
    workers["plain"] = 2
    measured = harness.in_turn(
        {
            side: lambda side=side: in_a_process(
                side, form, given, workers.get(side, 0)
            )
            for side in sides_of(form)
        },
        given.rounds,
    )
    peers = [side for side in (*OF_TORCH, "tf_data") if side in measured[0]]
    middle = harness.medians(measured)
    best = max(peers, key=middle.__getitem__)
    return {
        "medians": middle,
        "workers": workers,
        "best_peer": best,
        "ratio": harness.ratio(measured, "ours", best),
        "over_plain": harness.ratio(measured, "ours", "plain"),
        "over_twice_one_core": harness.ratio(measured, "ours", "one_core", 2),
        **{f"over_{peer}": harness.ratio(measured, "ours", peer) for peer in peers},
        "rounds": measured,
    }


def measure_own(part, form, given):
    if part == "sweep":
        return host_path.sweep(given.work / form, given.batches, given.rounds)
    originals = given.work / "originals"
    return host_path.costs(form, originals, given.work, given.batches, given.rounds)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--originals", type=Path, help="folder with train/CLASS and val/CLASS")
    add("--work", type=Path, required=True, help="folder for the prepared forms")
    add("--output", type=Path, help="folder for the raw results")
    add("--forms", nargs="+", choices=FORMS, default=FORMS)
    add("--parts", nargs="+", choices=PARTS, default=["peers"])
    add("--rounds", type=int, default=7)
    add("--batches", type=int, default=24, help="measured in a round and side")
    add("--side", choices=SIDES, help=argparse.SUPPRESS)
    add("--form", choices=FORMS, help=argparse.SUPPRESS)
    add("--workers", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(SIDES[given.side](given.form, given.work, given.batches, given.workers))
        return
    make_prepared(given.originals, given.work)
    images = len(opened("jpeg", given.work))
    packages = ["grain", "simplejpeg", "pillow", "numpy"]
    if "peers" in given.parts:
        make_files(given.work)
        forms = {form: compare(form, given) for form in given.forms}
        result = {
            "benchmark": "input_pipeline",
            "unit": "images per second",
            "batch_size": BATCH,
            "images": images,
            "ratio": forms[given.forms[0]]["ratio"]["median"],
            "forms": forms,
            **harness.machine(*packages, "torch", "torchvision"),
        }
        harness.write(result, given.output)
    own = [part for part in PARTS[1:] if part in given.parts]
    for part in own:
        result = {
            "benchmark": f"input_pipeline_{part}",
            "unit": UNITS[part],
            "images": images,
            "forms": {
                form: measure_own(part, form, given)
                for form in given.forms
                if form in ("jpeg", "raw")
            },
            **harness.machine(*packages),
        }
        harness.write(result, given.output)


if __name__ == "__main__":
    main()
