"""Files of features: whole, continued, refused."""

import json
import resource

import numpy as np
import pytest

from alexnet_jax.inference.feature_file import Contents
from alexnet_jax.inference.feature_store import open_output
from alexnet_jax.runtime.errors import Failure, InputError

from watch import contents


ROWS = np.random.default_rng(0).normal(size=(10, 2, 3)).astype(np.float32)
NAMES = [f"{number}.png" for number in range(8)] + ['a,"b"', "c\nd"]
JOB = {"layers": ["fc7"]}
ABOUT = {"class_names": ["cat", "dög"]}


def write(path, upto=10, job=JOB):
    """Append rows, four at a time, as far as `upto`."""
    longest = max(len(name.encode()) for name in NAMES)
    contents = Contents({"fc7": ROWS.shape}, 4, ABOUT, lambda: longest)
    with open_output(path, contents, job=job) as output:
        for start in range(output.done, upto, 4):
            part = slice(start, min(start + 4, len(ROWS)))
            labels = list(range(len(ROWS)))[part]
            output.append({"fc7": ROWS[part]}, NAMES[part], labels, refused=0)


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.npy"
    write(path)
    return path


def test_a_finished_file_is_the_one_that_numpy_saves(whole, tmp_path):
    saved = tmp_path / "saved.npy"
    np.save(saved, ROWS)
    assert whole.read_bytes() == saved.read_bytes()
    lines = whole.with_suffix(".csv").read_text().splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert lines[-2:] == ['"a,""b""",8', "c\\nd,9"]


@pytest.mark.parametrize("stopped_after", [0, 4, 8])
@pytest.mark.parametrize("more", [b"", b"half a row"])
def test_a_continued_file_is_the_same_bytes(whole, tmp_path, stopped_after, more):
    path = tmp_path / "stopped.npy"
    write(path, upto=stopped_after)
    # As if killed after writing more than the note counts.
    with path.open("ab") as array, path.with_suffix(".csv").open("ab") as table:
        array.write(more)
        table.write(more)
    write(path)
    assert path.read_bytes() == whole.read_bytes()
    assert (
        path.with_suffix(".csv").read_bytes() == whole.with_suffix(".csv").read_bytes()
    )
    about = [json.loads(p.read_text()) for p in tmp_path.glob("*.json")]
    assert about == [ABOUT, ABOUT]


@pytest.mark.parametrize("ending", [".npy", ".csv"])
def test_a_file_shorter_than_its_note_is_refused_and_left_alone(tmp_path, ending):
    path = tmp_path / "cut.npy"
    write(path, upto=4)
    cut = path.with_suffix(ending)
    cut.write_bytes(cut.read_bytes()[:-3])
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"cut{ending} is shorter than what was"):
        write(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("ending", "package"), [("npy", "numpy"), ("h5", "h5py"), ("zarr", "zarr")]
)
def test_a_disk_that_is_full_when_it_syncs_is_one_line_and_the_same_command_continues(
    tmp_path, disk, ending, package
):
    """At each sync in turn."""
    pytest.importorskip(package)

    for name in ("whole", "full"):
        (tmp_path / name).mkdir()
    write(tmp_path / "whole" / f"rows.{ending}")
    calls = disk.calls
    assert calls > 3
    for room in range(calls):
        disk.begin(room)
        with pytest.raises(Failure, match="can't be written .*No space left"):
            write(tmp_path / "full" / f"rows.{ending}")
    disk.begin()
    write(tmp_path / "full" / f"rows.{ending}")
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_other_work_and_files_of_others_are_refused(whole, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        write(whole)
    path = tmp_path / "begun.npy"
    write(path, upto=4)
    with pytest.raises(InputError, match="the beginning of other features"):
        write(path, job={"layers": ["fc6"]})


def test_a_disk_that_is_full_is_one_line_and_the_same_command_continues(
    whole, tmp_path
):
    path = tmp_path / "full.npy"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(Failure, match=r"full.npy can't be written .*same command"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write(path)
    assert path.read_bytes() == whole.read_bytes()
