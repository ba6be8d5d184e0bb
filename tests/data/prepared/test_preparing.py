import errno
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import prepare, verify
from alexnet_jax.data import decoding
from alexnet_jax.data.encoded import EncodedSource
from alexnet_jax.data.prepared import (
    manifest,
    preparation,
    record,
    shard_writer,
    verification,
)
from alexnet_jax.data.selection import ReplacingSource
from alexnet_jax.data.sources import registry
from alexnet_jax.data.statistics import PixelSums
from alexnet_jax.runtime import patience, progress
from alexnet_jax.runtime.errors import Failure, InputError

import forms
from watch import contents


def prepared_from(folder, output, **options):
    settings = {"source": "folder", "size": 64, "workers": 1, **options}
    return preparation.prepare(input_path=str(folder), output=output, **settings)


def opened(path):
    return registry.open_dataset(
        source="prepared", path=path and str(path), size=1, validation_fraction=0.5
    )


def originals(folder):
    return registry.open_dataset(
        source="folder", path=str(folder), size=64, validation_fraction=0.1
    )


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_prepared_set_gives_back_the_images(tmp_path, image_folder, encoding):
    prepared_from(image_folder, tmp_path / "out", encoding=encoding)
    original, found = originals(image_folder), opened(tmp_path / "out")
    assert found.class_names == original.class_names
    for split in ("train", "validation"):
        source, reference = found.splits[split], original.splits[split]
        assert len(source) == len(reference)
        for index in range(len(source)):
            example, expected = source[index], reference[index]
            assert source.name(index) == reference.name(index)
            assert example["label"] == expected["label"]
            error = np.abs(example["image"].astype(float) - expected["image"]).mean()
            assert error == 0 if encoding == "raw" else error < 6


def test_mean_and_colours_equal_numpy_on_the_whole_set(tmp_path, image_folder):
    prepared_from(image_folder, tmp_path / "out")
    train = originals(image_folder).splits["train"]
    whole = np.stack([train[i]["image"] for i in range(len(train))]).astype(float)
    statistics = opened(tmp_path / "out").statistics
    assert statistics is not None
    np.testing.assert_array_equal(
        statistics.mean, whole.mean(axis=0).astype(np.float32)
    )
    covariance = np.cov(whole.reshape(-1, 3).T, bias=True)
    turned = statistics.directions @ np.diag(statistics.deviations**2)
    turned = turned @ statistics.directions.T
    np.testing.assert_allclose(turned, covariance, rtol=1e-6)
    assert (np.diff(statistics.deviations) >= 0).all()


@pytest.mark.parametrize("size", [64, 258, 259, 400])
def test_sums_are_exact_and_add(photographs, size):
    pieces = [photograph[:size, :size] for photograph in photographs]
    pieces.append(np.full((size, size, 3), 255, np.uint8))
    whole = PixelSums.zeros(size)
    parts = [PixelSums.zeros(size) for _ in range(2)]
    for number, piece in enumerate(pieces):
        whole.add(piece)
        parts[number % 2].add(piece)
    parts[0] += parts[1]
    pixels = np.stack(pieces).astype(np.int64).reshape(-1, 3)
    expected = [[int((a * b).sum()) for b in pixels.T] for a in pixels.T]
    for sums in (whole, parts[0]):
        np.testing.assert_array_equal(sums.products, expected)
        np.testing.assert_array_equal(sums.pixels, sum(p.astype(int) for p in pieces))
        assert sums.count == 3


def test_grey_images_have_no_negative_eigenvalue():
    rng = np.random.default_rng(0)
    sums = PixelSums.zeros(9)
    for _ in range(5):
        sums.add(rng.integers(0, 256, (9, 9, 1), np.uint8).repeat(3, 2))
    deviations = sums.statistics().deviations
    assert np.isfinite(deviations).all()
    assert (deviations >= 0).all()


@pytest.fixture
def many_shards(monkeypatch):
    monkeypatch.setattr(preparation, "EXAMPLES_WORTH_A_SHARD", 4)


def test_the_bytes_are_the_same_whatever_the_workers(
    tmp_path, image_folder, many_shards
):
    found = {}
    for workers in (1, 3):
        output = tmp_path / f"out{workers}"
        prepared_from(image_folder, output, workers=workers)
        found[workers] = contents(output)
    assert found[1] == found[3]
    shards = {f"train-{n:05d}-of-00004.array_record" for n in range(4)}
    shards |= {f"validation-{n:05d}-of-00002.array_record" for n in range(2)}
    assert set(found[1]) == shards | {"dataset.json", "mean.npy"}
    assert not (tmp_path / "out1.unfinished").exists()


def test_what_was_repaired_is_counted(tmp_path, image_folder):
    content = prepared_from(image_folder, tmp_path / "out")
    # Of each class's 8 and 3 images, in turn RGB, grey, transparent, RGB.
    assert content["repaired"] == {"greyscale": 6, "transparency": 6}
    written = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert written["repaired"] == content["repaired"]
    assert written["unreadable"] == []
    assert written["counts"] == {"train": 16, "validation": 6}


def test_a_killed_preparation_continues_and_ends_the_same(
    tmp_path, image_folder, many_shards, monkeypatch, capsys
):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    prepared_from(image_folder, tmp_path / "straight")
    assert "checking finished shards" not in capsys.readouterr().err
    output = tmp_path / "killed"
    forms.prepare_and_kill("folder", image_folder, output, size=64)
    assert not output.exists()
    with pytest.raises(InputError, match="no prepared data set"):
        opened(output)
    notes = tmp_path / "killed.unfinished" / "notes"
    assert len(list(notes.glob("*.json"))) == 2
    # What a power cut may do to a file that the disk had not got yet.
    first = notes.parent / "set" / "train-00000-of-00004.array_record"
    first.write_bytes(bytes(5) + first.read_bytes()[5:])
    prepared_from(image_folder, output)
    said = capsys.readouterr().err
    assert "continuing: 4 of 22 images are prepared" in said
    shards = len(list(output.glob("*.array_record")))
    assert f"checking finished shards {shards}/{shards}" in said
    assert contents(output) == contents(tmp_path / "straight")


def test_other_options_start_over(tmp_path, image_folder, many_shards, capsys):
    output = tmp_path / "out"
    (image_folder / "train" / "class1" / "broken.jpg").write_bytes(b"\xff\xd8 no")
    with pytest.raises(InputError):
        prepared_from(image_folder, output)
    prepared_from(image_folder, output, encoding="raw", on_error="skip")
    assert "other options; starting over" in capsys.readouterr().err
    assert opened(output).splits["train"][0]["image"].shape == (64, 64, 3)
    assert verification.verify(output, workers=1) == []


def test_another_input_starts_over(tmp_path, image_folder, many_shards, capsys):
    """Whose files have the same names and lengths."""
    other, output = tmp_path / "other", tmp_path / "out"
    pixels = np.full((80, 80, 3), 9, np.uint8)
    for place in (image_folder, other):
        shutil.rmtree(place, ignore_errors=True)
        for split, label in itertools.product(("train", "val"), ("a", "b")):
            (place / split / label).mkdir(parents=True)
            Image.fromarray(pixels).save(place / split / label / "0.bmp")
        (place / "train" / "a" / "1.bmp").write_bytes(b"")
        pixels = pixels + 100
    with pytest.raises(InputError, match="1 image cannot"):
        prepared_from(image_folder, output)
    prepared_from(other, output, on_error="skip")
    prepared_from(other, tmp_path / "straight", on_error="skip")
    assert "other options; starting over" in capsys.readouterr().err
    assert contents(output) == contents(tmp_path / "straight")


def test_another_way_of_decoding_starts_over(
    tmp_path, image_folder, many_shards, monkeypatch, capsys
):
    output = tmp_path / "out"
    forms.prepare_and_kill("folder", image_folder, output, size=64)
    monkeypatch.setattr(decoding, "REVISION", decoding.REVISION + 1)
    prepared_from(image_folder, output)
    assert "other options; starting over" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["folder", "webdataset"])
def test_a_preparation_within_its_input_is_not_its_input(
    tmp_path, image_folder, form, many_shards
):
    found = []
    for name in ("straight", "killed"):
        folder = tmp_path / name
        if form == "folder":
            shutil.copytree(image_folder / "train", folder)
        else:
            forms.webdataset(folder)
        output = folder / "class0" / "out" if form == "folder" else folder / "out"
        if name == "killed":
            forms.prepare_and_kill(form, folder, output, size=64)
            assert output.with_name("out.unfinished").exists()
        prepared_from(folder, output, source=form)
        found.append(contents(output))
    assert found[0] == found[1]


def test_a_lock_that_stays_while_it_is_open_leaves_no_folder(
    tmp_path, image_folder, monkeypatch, capsys
):
    """As on NFS, which gives a file that is removed another name until it is closed."""
    held = {}
    unlink, close = os.unlink, os.close

    def renamed(path, *arguments, **options):
        path = Path(os.fspath(path))
        if path.name == "lock":
            held[path] = path.with_name(".nfs0001")
            path.rename(held[path])
        else:
            unlink(path, *arguments, **options)

    def closed(descriptor):
        status = os.fstat(descriptor)
        close(descriptor)
        for path, other in [*held.items()]:
            if other.exists() and os.path.samestat(other.stat(), status):
                unlink(other)
                del held[path]

    monkeypatch.setattr(os, "unlink", renamed)
    monkeypatch.setattr(os, "close", closed)
    prepared_from(image_folder, tmp_path / "out")
    assert not (tmp_path / "out.unfinished").exists()
    assert "warning" not in capsys.readouterr().err


def test_a_class_without_a_readable_image_is_refused(
    tmp_path, image_folder, many_shards
):
    for path in (image_folder / "train" / "class1").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="no image of class class1 can be prepared"):
        prepared_from(image_folder, tmp_path / "out", on_error="skip")


def test_another_column_of_images_starts_over(tmp_path, many_shards, capsys):
    """Whose rows are the same: names, classes, numbers."""
    pytest.importorskip("pyarrow")
    forms.two_columns(tmp_path / "set")

    def prepared(key):
        preparation.prepare(
            source="parquet",
            input_path=str(tmp_path / "set"),
            output=tmp_path / "out",
            size=8,
            encoding="raw",
            workers=1,
            image_key=key,
        )

    with pytest.raises(InputError, match="row 39 is not an image"):
        prepared("mask")
    prepared("image")
    assert "other options; starting over" in capsys.readouterr().err
    for split in opened(tmp_path / "out").splits.values():
        for index in range(len(split)):
            assert (split[index]["image"] == 200).all()


def test_the_output_may_be_a_link(tmp_path, image_folder):
    """Prepared where it leads to, also if nothing is there yet."""
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        link = tmp_path / f"{name}.link"
        link.symlink_to(tmp_path / name)
        prepared_from(image_folder, link)
        assert link.is_symlink() and len(opened(tmp_path / name).splits["train"]) == 16
    assert not [*tmp_path.glob("*.unfinished")]


def test_bad_images_stop_with_their_list_or_are_skipped(tmp_path, image_folder):
    folder, output = image_folder / "train" / "class1", tmp_path / "out"
    bad = {
        "cut.jpg": (folder / "train0.jpg").read_bytes()[:400],
        "nothing.jpg": b"",
        "text.JPEG": b"no image",
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    (folder / "zlink.jpg").symlink_to("nowhere")
    with pytest.raises(InputError) as caught:
        prepared_from(image_folder, output)
    assert "\n" not in str(caught.value)
    for name in bad:
        assert f"class1/{name}" in str(caught.value)
    assert "4 images cannot be prepared" in str(caught.value)
    assert "--on_error=skip" in str(caught.value)
    assert not output.exists()
    listed = (tmp_path / "out.unfinished" / "unreadable.txt").read_text()
    *_, link = listed.splitlines()
    assert len(listed.splitlines()) == 4
    assert f"{folder}/zlink.jpg is a link to nowhere, which does not exist" in link
    content = prepared_from(image_folder, output, on_error="skip")
    assert {entry["name"] for entry in content["unreadable"]} == {
        f"train/class1/{name}" for name in [*bad, "zlink.jpg"]
    }
    assert content["counts"] == {"train": 16, "validation": 6}
    assert len(opened(output).splits["train"]) == 16
    assert verification.verify(output, workers=1) == []


def test_a_fixed_image_is_taken_in_and_the_rest_is_kept(
    tmp_path, image_folder, many_shards, capsys
):
    broken = image_folder / "train" / "class1" / "train0.jpg"
    whole = broken.read_bytes()
    prepared_from(image_folder, tmp_path / "straight")
    for data in (whole[:400], bytes(len(whole))):
        broken.write_bytes(data)
        output = tmp_path / f"out{len(data)}"
        for _ in range(2):
            with pytest.raises(InputError, match="1 image cannot be prepared"):
                prepared_from(image_folder, output)
        broken.write_bytes(whole)
        capsys.readouterr()
        prepared_from(image_folder, output)
        assert "continuing: 18 of 22" in capsys.readouterr().err
        assert contents(output) == contents(tmp_path / "straight")


def test_names_that_are_not_utf_8_are_stored_with_escapes(tmp_path, image_folder):
    folder = os.fsencode(image_folder / "train" / "class1")
    os.rename(folder + b"/train0.jpg", folder + b"/caf\xe9.jpg")
    (image_folder / "train" / "class1" / os.fsdecode(b"\xe9.jpg")).write_bytes(b"")
    prepared_from(image_folder, tmp_path / "out", on_error="skip")
    train = opened(tmp_path / "out").splits["train"]
    names = [train.name(index) for index in range(len(train))]
    assert len(names) == 16
    assert names.count("train/class1/caf\\xe9.jpg") == 1
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert [e["name"] for e in content["unreadable"]] == ["train/class1/\\xe9.jpg"]


def test_the_path_of_a_prepared_set_is_utf_8(tmp_path, image_folder):
    """ArrayRecord opens no other."""
    strange = tmp_path / os.fsdecode(b"\xe9")
    with pytest.raises(InputError, match=r"--output=.*/\\xe9 is not UTF-8.* choose"):
        prepared_from(image_folder, strange)
    prepared_from(image_folder, tmp_path / "out")
    (tmp_path / "out").rename(strange)
    with pytest.raises(InputError, match=r".*/\\xe9 is not UTF-8.* choose"):
        opened(strange)


def test_what_is_left_out_is_counted_in_the_manifest(tmp_path, image_folder, capsys):
    hidden = image_folder / "train" / "class1" / ".ipynb_checkpoints"
    hidden.mkdir()
    for copy in ("train0-checkpoint.jpg", "train4-checkpoint.jpg"):
        (hidden / copy).write_bytes(b"")
    (image_folder / "train" / "class0" / "Thumbs.db").write_bytes(b"")
    (image_folder / "labels.txt").write_text("class0")
    content = prepared_from(image_folder, tmp_path / "out")
    left_out = {".txt": 1, "hidden": 3}
    assert content["left_out"] == left_out
    assert content["counts"] == {"train": 16, "validation": 6}
    written = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert written["left_out"] == left_out
    line = f"{image_folder}: 4 files left out (1 .txt, 3 hidden)\n"
    assert line in capsys.readouterr().err


def test_where_nothing_can_be_read_nothing_is_made(tmp_path):
    for label in "ab":
        for split in ("train", "val"):
            folder = tmp_path / "in" / split / label
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(b"no image")
    with pytest.raises(
        InputError, match=r"no image of split train can be prepared: .*train/a/0.png"
    ):
        prepared_from(tmp_path / "in", tmp_path / "out", on_error="skip")
    assert not (tmp_path / "out").exists()


FULL = """
import resource, signal, sys
from alexnet_jax import prepare
from alexnet_jax.runtime import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
cli.run_command(lambda: prepare.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [500, 40_000, 90_000])
def test_a_full_disk_is_one_line_and_the_next_try_continues(
    tmp_path, image_folder, limit
):
    """A limit on the size of files stands for a disk without room."""
    output = tmp_path / "out"
    arguments = ["--source=folder", f"--input={image_folder}", f"--output={output}"]
    arguments += ["--size=64", "--workers=1"]
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(limit), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert "can't be written" in line and "File too large" in line
    assert not output.exists()
    assert not [*tmp_path.rglob("*.part")]
    prepared_from(image_folder, output)
    prepared_from(image_folder, tmp_path / "straight")
    assert contents(output) == contents(tmp_path / "straight")


def test_a_disk_that_is_full_when_it_syncs_is_one_line_and_the_next_try_continues(
    tmp_path, image_folder, disk
):
    """At every fifth sync, and at the last."""
    prepared_from(image_folder, tmp_path / "straight")
    calls = disk.calls
    assert calls > 10
    for room in {*range(0, calls, 5), calls - 1}:
        output = tmp_path / f"out{room}"
        disk.begin(room)
        with pytest.raises(Failure, match="can't be written .*No space left"):
            prepared_from(image_folder, output)
        assert not [*tmp_path.rglob("*.part")]
        disk.begin()
        # It has its name when that is synced, which is last.
        assert output.exists() == (room == calls - 1)
        if not output.exists():
            prepared_from(image_folder, output)
        assert contents(output) == contents(tmp_path / "straight")


def test_a_mounted_disk_is_no_place_to_move_a_set_to(image_folder):
    with pytest.raises(InputError, match="where a disk is mounted"):
        prepared_from(image_folder, Path("/"))


def test_what_systems_leave_is_in_nobodys_way(tmp_path, image_folder):
    output = tmp_path / "new"
    staging = tmp_path / "new.unfinished"
    for folder in (output, staging, staging / "set"):
        (folder / "@eaDir").mkdir(parents=True)
        for name in (".DS_Store", "Thumbs.db", "._dataset.json"):
            (folder / name).write_text("of a system")
    prepared_from(image_folder, output)
    assert manifest.read_manifest(output).size == 64
    assert not staging.exists()


def test_a_folder_that_cannot_be_synced_is_no_error(
    tmp_path, image_folder, monkeypatch
):
    """As on CIFS, sshfs and VirtualBox's shared folders."""
    fsync = os.fsync

    def refused(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    prepared_from(image_folder, tmp_path / "out")
    assert (tmp_path / "out" / "dataset.json").exists()


def test_an_output_that_is_in_the_way(tmp_path, image_folder):
    prepared_from(image_folder, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        prepared_from(image_folder, tmp_path / "out")
    (tmp_path / "new.unfinished").mkdir()
    (tmp_path / "new.unfinished" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"new.unfinished is in the way .*thesis.txt"):
        prepared_from(image_folder, tmp_path / "new")
    assert (tmp_path / "new.unfinished" / "thesis.txt").read_text() == "mine"
    with pytest.raises(InputError, match="can't be written"):
        prepared_from(image_folder, tmp_path / "out" / "dataset.json" / "below")
    with pytest.raises(InputError, match="--workers=0 must be at least 1"):
        prepared_from(image_folder, tmp_path / "other", workers=0)
    with pytest.raises(InputError, match="--size=5000 must lie from 1 to below 4097"):
        prepared_from(image_folder, tmp_path / "other", size=5000)
    with pytest.raises(InputError, match="--input=.*nowhere is not a folder"):
        prepared_from(tmp_path / "nowhere", tmp_path / "other")


SLOW = """
import sys
from alexnet_jax import prepare
from alexnet_jax.data.prepared import preparation
from alexnet_jax.runtime import cli
import slow_shard
if __name__ == "__main__":
    preparation.EXAMPLES_WORTH_A_SHARD = 1
    preparation.shard_writer.write_shard = slow_shard.write_shard
    cli.run_command(lambda: prepare.main(
        ["--source=folder", "--input", sys.argv[1], "--output", sys.argv[2],
         "--size=64", "--workers=2"]))
"""
SLOW_SHARD = """
import os, sys, time
from pathlib import Path
def write_shard(task, advance):
    (Path(sys.argv[2]).parent / f"pid{os.getpid()}").touch()
    for _ in range(600):
        time.sleep(0.1)
        advance(0)
"""


@pytest.fixture
def slow_preparation(tmp_path, image_folder):
    """A preparation with two workers at work, and their process ids."""
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "slow_shard.py").write_text(SLOW_SHARD)
    command = [sys.executable, str(tmp_path / "slow.py"), str(image_folder)]
    process = subprocess.Popen(
        [*command, str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(pids := list(tmp_path.glob("pid*"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    yield process, [int(pid.name.removeprefix("pid")) for pid in pids]
    process.kill()
    process.communicate()


def wait_for_the_end_of(numbers):
    deadline = time.monotonic() + 30
    while any(alive(number) for number in numbers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_at_once_and_a_killed_one_leaves_no_process(
    tmp_path, image_folder, many_shards, slow_preparation
):
    """The second is refused; a killed preparation takes its workers with it."""
    process, numbers = slow_preparation
    taken = r"out is being prepared by process \d+ on \S+ since"
    with pytest.raises(InputError, match=taken):
        prepared_from(image_folder, tmp_path / "out")
    process.kill()
    process.wait()
    wait_for_the_end_of(numbers)
    prepared_from(image_folder, tmp_path / "out")
    assert verification.verify(tmp_path / "out", workers=1) == []


def test_ctrl_c_ends_a_preparation_and_its_workers(tmp_path, slow_preparation):
    process, numbers = slow_preparation
    for number in (process.pid, *numbers):
        # A terminal sends it to all of them.
        os.kill(number, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "stopped; the same command continues with what is prepared\n"
    wait_for_the_end_of(numbers)
    assert not (tmp_path / "out").exists()


def alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_memory_stays_flat_while_the_input_grows(tmp_path, image_folder):
    """A hundred times as many images; no room for their 12 kB each."""
    program = (
        "import resource, sys\n"
        "from alexnet_jax import prepare\n"
        "prepare.main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for copies in (1, 100):
        for number in range(copies):
            for file in list(image_folder.glob("train/*/train?.*")):
                target = file.with_name(f"copy{number}-{file.name}")
                if not target.exists():
                    os.link(file, target)
        arguments = [f"--input={image_folder}", f"--output={tmp_path / str(copies)}"]
        arguments += ["--source=folder", "--workers=1", "--size=64"]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.split()[-1]))
    unit = 1024 if sys.platform == "linux" else 1
    assert peaks[1] - peaks[0] < 2**23 / unit


def test_verify_names_the_shard_and_record_of_every_fault(
    tmp_path, image_folder, many_shards
):
    output = tmp_path / "out"
    content = prepared_from(image_folder, output)
    assert verification.verify(output, workers=2) == []
    first, second, third, _ = (s["file"] for s in content["shards"]["train"])
    names = [opened(output).splits["train"].name(i) for i in range(16)]
    data = bytearray((output / first).read_bytes())
    # In the image of the third record, well after its name.
    place = data.index(names[2].encode()) + 200
    data[place] ^= 255
    (output / first).write_bytes(data)
    (output / second).write_bytes((output / second).read_bytes()[:-100])
    (output / third).unlink()
    faults = verification.verify(output, workers=1)
    assert any(first in fault and "checksum mismatch" in fault for fault in faults)
    assert any(f"{first}, record 2: " in fault for fault in faults)
    assert not any(f"{first}, record 1: " in fault for fault in faults)
    assert any(second in fault and "bytes where" in fault for fault in faults)
    assert any(third in fault and "is missing" in fault for fault in faults)
    assert len(faults) == 4


def test_verify_exits_with_1_on_faults(tmp_path, image_folder, capsys):
    prepared_from(image_folder, tmp_path / "out")
    arguments = [f"--path={tmp_path / 'out'}"]
    verify.main(arguments)
    assert json.loads(capsys.readouterr().out)["faults"] == 0
    mean = tmp_path / "out" / "mean.npy"
    mean.write_bytes(mean.read_bytes()[:-1] + b"\0")
    with pytest.raises(SystemExit) as caught:
        verify.main(arguments)
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["faults"] == 1
    assert "mean.npy is damaged" in printed.err


def test_a_damaged_record_stops_training_by_name(tmp_path, image_folder):
    output = tmp_path / "out"
    content = prepared_from(image_folder, output)
    shard = output / content["shards"]["train"][0]["file"]
    name = opened(output).splits["train"].name(5)
    data = bytearray(shard.read_bytes())
    data[data.index(name.encode()) + 300] ^= 1
    shard.write_bytes(data)
    train = opened(output).splits["train"]
    train[4]
    with pytest.raises(InputError, match=rf"{shard}, record 5, is damaged") as caught:
        train[5]
    assert "\n" not in str(caught.value)
    assert "alexnet_jax.verify" in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "prepared"])
def test_a_drive_that_is_away_is_waited_for(
    tmp_path, image_folder, kind, capsys, monkeypatch
):
    folder = image_folder
    if kind == "prepared":
        folder = tmp_path / "out"
        prepared_from(image_folder, folder, encoding="raw")
    open_set = originals if kind == "folder" else opened
    expected = open_set(folder).splits["train"][3]["image"]
    source = open_set(folder).splits["train"]
    forms.away_for_a_while(folder)
    np.testing.assert_array_equal(source[3]["image"], expected)
    away, back = capsys.readouterr().err.splitlines()
    assert away.startswith(f"warning: {folder} can't be reached")
    assert away.endswith("trying again for 4 minutes")
    assert back == f"{folder} is back"
    # It is no image that can't be read, which a run may leave out.
    monkeypatch.setattr(patience, "SECONDS_TO_READ", 0.0)
    source = ReplacingSource(open_set(folder).splits["train"])
    folder.rename(tmp_path / "gone")
    with pytest.raises(Failure, match="can't be reached .*; when its drive is back"):
        source[3]
    if kind == "folder":
        assert isinstance(source.source, EncodedSource)
        task = shard_writer.ShardTask(
            tmp_path / "a", tmp_path, source.source, "raw", measured=False, classes=2
        )
        with pytest.raises(Failure, match="can't be reached"):
            shard_writer.write_shard(task, lambda _: None)


def test_what_is_wrong_with_a_prepared_set_is_named(tmp_path, image_folder):
    output = tmp_path / "out"
    with pytest.raises(InputError, match="alexnet_jax.prepare --source=folder"):
        opened(None)
    with pytest.raises(InputError, match=f"alexnet_jax.prepare .*--output={output}"):
        opened(output)
    # Where the images themselves are given, they are what is to be prepared.
    with pytest.raises(InputError, match=f"--input={image_folder} --output=NEW"):
        opened(image_folder)
    content = prepared_from(image_folder, output)
    file = output / "dataset.json"
    text = file.read_text()

    def changed(**changes):
        file.write_text(json.dumps({**json.loads(text), **changes}))

    shard = content["shards"]["train"][0]
    wrong = {
        "format 99, newer than the 3": {"format_version": 99},
        "format 1, older than the 2 read here; prepare": {"format_version": 1},
        "no format_version": {"format_version": "2"},
        "lies outside": {"shards": {"train": [{**shard, "file": "../x"}]}},
        "a count of -1": {"shards": {"train": [{**shard, "examples": -1}]}},
        "no 'sha256'": {
            "shards": {"train": [{k: v for k, v in shard.items() if k != "sha256"}]}
        },
        "size 100000000": {"size": 100_000_000},
        "encoding 'gif'": {"encoding": "gif"},
        "2 class names and 1 ids": {"class_ids": ["a"]},
        "colour_directions": {"colour_directions": [[1.0]]},
        "no examples of split validation": {"shards": {"train": [shard]}},
        "records where the manifest says 17": {
            "shards": {
                "train": [{**shard, "examples": 17}],
                "validation": content["shards"]["validation"],
            }
        },
        "something else": {"shards": None},
    }
    for message, changes in wrong.items():
        changed(**changes)
        if message == "something else":
            file.write_text(json.dumps([1]))
        with pytest.raises(InputError, match=message) as caught:
            opened(output)
        assert "\n" not in str(caught.value)
    file.write_text(text[:50])
    with pytest.raises(InputError, match="is damaged"):
        opened(output)
    file.write_text(text)
    (output / "mean.npy").rename(tmp_path / "mean.npy")
    with pytest.raises(InputError, match="mean.npy is missing"):
        opened(output)
    (output / "mean.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match="mean.npy is damaged"):
        opened(output)
    (tmp_path / "mean.npy").replace(output / "mean.npy")
    whole = (output / shard["file"]).read_bytes()
    (output / shard["file"]).write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"train-00000.* bytes where"):
        opened(output)
    (output / shard["file"]).write_bytes(bytes(len(whole)))
    with pytest.raises(
        InputError, match=r"train-00000.* 0 records where the manifest says 16"
    ):
        opened(output)
    (output / shard["file"]).unlink()
    with pytest.raises(InputError, match=r"train-00000.* is missing"):
        opened(output)


def test_format_2_still_opens_and_verifies(tmp_path, image_folder):
    """Two keys had other names, which nothing reads; the shards are the same."""
    output = tmp_path / "out"
    prepared_from(image_folder, output)
    train = opened(output).splits["train"]
    expected = [train[index]["image"] for index in range(len(train))]
    file = output / "dataset.json"
    content = json.loads(file.read_text())
    content["format_version"] = 2
    del content["repaired"], content["unreadable"]
    file.write_text(json.dumps(content))
    found = opened(output).splits["train"]
    for index, image in enumerate(expected):
        np.testing.assert_array_equal(found[index]["image"], image)
    assert verification.verify(output, workers=1) == []


def test_the_command_prints_what_was_repaired_and_skipped(
    tmp_path, image_folder, capsys
):
    (image_folder / "train" / "class1" / "broken.jpg").write_bytes(b"no image")
    output = tmp_path / "out"
    prepare.main(
        [
            *("--source=folder", f"--input={image_folder}", f"--output={output}"),
            *("--size=64", "--workers=1", "--on_error=skip"),
        ]
    )
    assert json.loads(capsys.readouterr().out) == {
        "output": str(output),
        "classes": 2,
        "train": 16,
        "validation": 6,
        "repaired": {"greyscale": 6, "transparency": 6},
        "unreadable": 1,
        "left_out": {},
    }


def test_a_record_is_what_was_packed():
    packed = record.pack(b"image", 3, "it's.jpg")
    unpacked = record.unpack(packed)
    assert (unpacked.label, unpacked.name) == (3, "it's.jpg")
    assert bytes(unpacked.image) == b"image"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        broken = bytearray(packed[: rng.integers(0, len(packed))])
        if broken:
            broken[rng.integers(0, len(broken))] ^= 1 << rng.integers(0, 8)
        try:
            record.unpack(bytes(broken))
        except ValueError as error:
            assert "no record" in str(error)
            refused += 1
    assert refused > 0
    # Without the image every cut is one in the head.
    for length in range(len(packed) - len(b"image")):
        with pytest.raises(ValueError, match="no record"):
            record.unpack(packed[:length])
