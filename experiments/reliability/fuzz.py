"""Do damaged or hostile files raise anything but the one documented error?

Hypothesis changes real files (bytes flipped, cut out, put in, repeated, lengths and
numbers replaced by extreme ones, and shrunk to the smallest that fails) and passes them
to the functions that read them:

    description     dataset.json of a prepared set
    record          a record of a prepared set, header and image
    image           untrusted JPEG, PNG, GIF, WebP, TIFF, BMP, PPM files
    workdir         config.json, run.json, dataset.json, mean.npy of a work directory
    metrics         metrics.jsonl, cut back at a resume
    archive         a tar of images
    checkpoint      every file of a checkpoint

    python experiments/reliability/fuzz.py --inputs=100000 --output=FOLDER

Each must give a result or an InputError in one line (a record: a ValueError), in
bounded time. `--quick` takes few inputs of each. Anything else ends the program and
prints the input that caused it.
"""

import argparse
import contextlib
import gc
import io
import json
import resource
import shutil
import sys
import tarfile
import tempfile
import time
import warnings
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.checkpoint.reader import CheckpointReader
from alexnet_jax.data import decoding
from alexnet_jax.data.prepared import manifest, preparation
from alexnet_jax.data.prepared import record as prepared
from alexnet_jax.data.prepared.record import open_prepared
from alexnet_jax.data.sources import tar_index
from alexnet_jax.data.statistics import MEAN_FILE, Statistics
from alexnet_jax.runs import metrics_file, run_data, workdir
from alexnet_jax.runtime.errors import InputError

import harness


# Reading a checkpoint goes through threads and files; others are functions of bytes.
WORKDIR_FILES = (
    workdir.CONFIG_FILE,
    workdir.RUN_FILE,
    workdir.DATA_FILE,
    MEAN_FILE,
)
SLOW = {"checkpoint": 0.01, "archive": 0.5, "image": 1.0}
SECONDS = 20
EXTREME = [b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80" * 8]
WORDS = [b"-1", b"0", b"1e999", b"null", b"[]", b"{}", b'"../../x"', b"9" * 40, b"NaN"]


@st.composite
def changed(draw, files):
    """One of the files, changed in up to four places."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 16))
        kind = draw(st.integers(0, 5))
        if kind == 0 and data:
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            del data[start : start + length]
        elif kind == 2:
            data[start:start] = draw(st.binary(max_size=16))
        elif kind == 3:
            del data[start:]
        elif kind == 4:
            data[start : start + length] = draw(st.sampled_from([*EXTREME, *WORDS]))
        else:
            data[start:start] = data[start : start + length] * draw(st.integers(1, 99))
    return bytes(data)


def one_line(error):
    assert "\n" not in str(error), f"more than one line: {error}"
    return "refused"


class Borders:
    """The functions that read untrusted files, each with real files to begin from."""

    def __init__(self, folder):
        self.folder = folder
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(pixels[:4, :4]).resize((31, 24)))
        self.files = {
            "description": [self._prepared(smooth)],
            "record": [
                prepared.pack(prepared.encode(smooth[:16, :16], kind), 1, "a/b.jpg")
                for kind in manifest.ENCODINGS
            ],
            "image": self._images(smooth),
            "workdir": self._workdir_files(),
            "metrics": [self._metrics()],
            "archive": [self._archive(self._images(smooth)[0])],
            "checkpoint": [],
        }
        self.whole = folder / "whole" / "checkpoints"
        self.state = {"a": jnp.arange(64.0).reshape(8, 8), "b": {"c": jnp.arange(5)}}
        with CheckpointWriter(self.whole) as checkpoints:
            checkpoints.save(1, self.state)
            checkpoints.record_validation(1, {"top1_error": 0.5})
        names = sorted(p for p in self.whole.rglob("*") if p.is_file())
        self.names = [name.relative_to(self.whole) for name in names]
        self.files["checkpoint"] = [
            bytes([number]) + name.read_bytes() for number, name in enumerate(names)
        ]

    def _prepared(self, pixels):
        """A real prepared set of eight images; its dataset.json."""
        source = self.folder / "images"
        for number in range(8):
            place = source / f"class{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.roll(pixels, number)).save(place / f"{number}.png")
        self.prepared = self.folder / "prepared"
        preparation.prepare(
            source="folder",
            input_path=str(source),
            output=self.prepared,
            size=16,
            validation_fraction=0.5,
            workers=1,
        )
        return (self.prepared / manifest.DATASET_FILE).read_bytes()

    def _workdir_files(self):
        """The files of a work directory, each behind a byte that says which it is."""
        place = self.folder / "workdir"
        place.mkdir()
        statistics = Statistics(np.zeros((8, 8, 3), np.float32), np.ones(3), np.eye(3))
        config = {"data": {"path": "x"}, "model": {"towers": 2}}
        workdir.start_run(place, config)
        data = run_data.Data(("cat", "dog"), 8, 4, "0", statistics)
        run_data.write_data(place, data)
        return [
            bytes([number]) + (place / name).read_bytes()
            for number, name in enumerate(WORKDIR_FILES)
        ]

    def _metrics(self):
        line = {"step": 1, "epoch": 0.5, "split": "train", "loss": 1.0}
        return "".join(
            json.dumps({**line, "step": n}) + "\n" for n in range(5)
        ).encode()

    def _images(self, pixels):
        files = []
        for kind, options in [
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("PNG", {}),
            ("GIF", {}),
            ("WEBP", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("BMP", {}),
            ("PPM", {}),
        ]:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, kind, **options)
            files.append(file.getvalue())
        return files

    def _archive(self, image):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for number in range(2):
                member = tarfile.TarInfo(f"n0000000{number}/image.JPEG")
                member.size = len(image)
                archive.addfile(member, io.BytesIO(image))
        return file.getvalue()

    def description_of(self, data):
        (self.prepared / manifest.DATASET_FILE).write_bytes(data)
        described = manifest.read_manifest(self.prepared)
        for shard in manifest.all_shards(described):
            assert shard.path.parent == self.prepared, shard
        dataset = open_prepared(str(self.prepared), 16, 0.5)
        for source in dataset.splits.values():
            for index in range(min(len(source), 8)):
                image = source[index]["image"]
                assert image.shape == (dataset.size, dataset.size, 3)

    def record_of(self, data):
        record = prepared.unpack(data)
        for encoding in manifest.ENCODINGS:
            with contextlib.suppress(ValueError):
                prepared.decode(record.image, encoding, 16)

    def image_of(self, data):
        decoded = decoding.decode(data, "image", size=8)
        assert decoded.image.shape == (8, 8, 3)
        assert decoded.image.dtype == np.uint8

    def workdir_of(self, data):
        place = self.folder / "workdir"
        number = data[0] % len(WORKDIR_FILES) if data else 0
        path = place / WORKDIR_FILES[number]
        whole = path.read_bytes()
        path.write_bytes(data[1:])
        try:
            workdir.check_format(place)
            workdir.read_config(place)
            workdir.read_starts(place)
            run_data.read_data(place)
        finally:
            path.write_bytes(whole)

    def metrics_of(self, data):
        path = self.folder / metrics_file.METRICS_FILE
        path.write_bytes(data)
        metrics_file.cut_metrics(path, 3)

    def archive_of(self, data):
        path = self.folder / "archive.tar"
        path.write_bytes(data)
        for member in tar_index.members(path):
            assert member.offset + member.length <= len(data)

    def checkpoint_of(self, data):
        number = data[0] % len(self.names) if data else 0
        directory = self.folder / "changed" / "checkpoints"
        shutil.rmtree(directory.parent, ignore_errors=True)
        shutil.copytree(self.whole, directory)
        (directory / self.names[number]).write_bytes(data[1:])
        checkpoints = CheckpointReader(directory)
        restored = checkpoints.restore(checkpoints.find("latest"), self.state)
        np.testing.assert_array_equal(restored["a"], self.state["a"])
        np.testing.assert_array_equal(restored["b"]["c"], self.state["b"]["c"])


def fuzz(name, function, files, inputs, seed):
    """Pass so many inputs to a function; how many it took and refused, and how long."""
    count = {"taken": 0, "refused": 0}
    longest = 0.0

    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=seed == 0,
        phases=(Phase.generate, Phase.shrink),
        # Its metaclass iterates over the checks, which it doesn't say.
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    @given(changed(files))
    def run(data):
        nonlocal longest
        begin = time.monotonic()
        try:
            function(data)
        except InputError as error:
            count[one_line(error)] += 1
        except ValueError as error:
            if name != "record":
                raise
            count[one_line(error)] += 1
        else:
            count["taken"] += 1
        longest = max(longest, time.monotonic() - begin)
        assert longest < SECONDS, f"an input took {longest:.0f} s"

    run()
    return {**count, "longest_seconds": round(longest, 3)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--inputs", type=int, default=100_000, help="of each border; of slow ones fewer"
    )
    add("--only", nargs="+", help="borders")
    add("--seed", type=int, default=0)
    add("--quick", action="store_true", help="few inputs of each")
    add("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    # Orbax leaves coroutines behind after a failed load, Pillow warns of odd files.
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None
    inputs = 300 if given.quick else given.inputs
    rows = {}
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        borders = Borders(Path(folder))
        for name, files in borders.files.items():
            if given.only and name not in given.only:
                continue
            begin = time.monotonic()
            asked = max(20, round(inputs * SLOW.get(name, 1.0)))
            function = getattr(borders, f"{name}_of")
            rows[name] = fuzz(name, function, files, asked, given.seed)
            rows[name]["seconds"] = round(time.monotonic() - begin, 1)
            gc.collect()
            print(name, json.dumps(rows[name]), file=sys.stderr, flush=True)
    result = {
        "experiment": "fuzz",
        "inputs": sum(row["taken"] + row["refused"] for row in rows.values()),
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "borders": rows,
        **harness.machine("hypothesis", "pillow", "simplejpeg", "orbax-checkpoint"),
    }
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "fuzz.json").write_text(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
