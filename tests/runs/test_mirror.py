"""A run is copied to a store that fails, is slow or loses things, and comes back."""

import errno
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from alexnet_jax.checkpoint import directory
from alexnet_jax.runs import fetching
from alexnet_jax.runs import snapshot as snapshots
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.mirror import Mirror
from alexnet_jax.runtime import open_files
from alexnet_jax.runtime.errors import Failure, InputError
from alexnet_jax.runtime.store import Store

from watch import contents, wait_for


CONFIG = {"data": {"source": "digits"}, "train": {"seed": 1}}


@pytest.fixture
def flaw(monkeypatch):
    """What a store in memory does before each call; it begins empty."""
    calls: list[str] = []
    flaws = []

    class Flawed(MemoryFileSystem):
        store: ClassVar = {}  # pyright: ignore[reportIncompatibleVariableOverride]
        pseudo_dirs: ClassVar = [""]

        def _called(self, name: str, path: str) -> None:
            calls.append(f"{name} {path}")
            for flaw in flaws:
                flaw(len(calls), name, path)

        def find(self, path, *arguments, **options):
            self._called("find", path)
            return super().find(path, *arguments, **options)

        def cat_file(self, path, *arguments, **options):
            self._called("read", path)
            return super().cat_file(path, *arguments, **options)

        def pipe_file(self, path, value, *arguments, **options):
            self._called("write", path)
            super().pipe_file(path, value, *arguments, **options)

        def rm_file(self, path):
            self._called("delete", path)
            super().rm_file(path)

    fsspec.register_implementation("memory", Flawed, clobber=True)
    yield flaws.append
    fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


def save(workdir: Path, step: int, *, deleted: tuple[int, ...] = ()) -> None:
    """What a run leaves that has saved a step: random arrays, and its small files."""
    rng = np.random.default_rng(step)
    workdir.mkdir(exist_ok=True)
    workdirs.write_json(workdir / "config.json", CONFIG)
    workdirs.write_json(workdir / "run.json", {"format_version": 2, "starts": []})
    workdirs.write_json(workdir / "data.json", {"fingerprint": "f"})
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step}) + "\n")
    path = workdir / "checkpoints" / f"{step}"
    (path / "d").mkdir(parents=True)
    (path / "d" / "array").write_bytes(rng.bytes(1000))
    (path / "empty").touch()
    directory.write_note(path / "files.json", {"files": {}})
    directory.delete(workdir / "checkpoints", deleted)


def store_at(address: str = "memory://bucket/run") -> Store:
    return Store(address, "--mirror")


def copy(workdir: Path, *, seconds: float = 30.0, address="memory://bucket/run"):
    with Mirror(store_at(address), workdir, seconds_at_end=seconds).following():
        pass


def fetched(tmp_path: Path, name: str = "back", address="memory://bucket/run") -> Path:
    workdir = tmp_path / name
    workdir.mkdir()
    fetching.open_mirror(address, workdir, CONFIG, seconds=1.0)
    return workdir


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_what_is_saved_comes_back_and_what_is_deleted_goes(tmp_path, kind, flaw):
    address = f"{kind}://{tmp_path}/there"
    for last in range(1, 5):
        save(tmp_path / "run", last * 10, deleted=((last - 2) * 10,) * (last > 2))
        copy(tmp_path / "run", address=address)
    assert contents(fetched(tmp_path, address=address)) == contents(tmp_path / "run")
    store = store_at(address)
    assert snapshots.numbers(store) == [3, 4]
    kept = [snapshots.load(store, number).pieces() for number in (3, 4)]
    assert store.names("blobs") == kept[0] | kept[1]
    # Two arrays, and a piece for each of the rest, are shared.
    assert len(kept[0].keys() & kept[1].keys()) >= 5


def third_fails(number, name, path):
    if number % 3 == 0:
        raise ConnectionError("the link is broken")


def slow(number, name, path):
    if name == "write":
        time.sleep(0.02)


@pytest.mark.parametrize("what", [third_fails, slow])
def test_a_store_that_fails_every_third_call_or_is_slow(tmp_path, flaw, what, capsys):
    save(tmp_path / "run", 10)
    flaw(what)
    copy(tmp_path / "run")
    said = capsys.readouterr().err
    assert "memory://bucket/run has step 10 of this run" in said
    assert ("made again" in said) == (what is third_fails)
    assert "warning" not in said
    assert contents(fetched(tmp_path)) == contents(tmp_path / "run")


@pytest.mark.parametrize("folder", ["blobs", "snapshots"])
def test_what_a_store_lost_while_it_wrote_is_written_again(tmp_path, flaw, folder):
    save(tmp_path / "run", 10)
    store = store_at()
    written, lost = store.write, []

    def write(name, data):
        if name.startswith(folder) and not lost:
            lost.append(name)
        else:
            written(name, data)

    store.write = write
    with Mirror(store, tmp_path / "run").following():
        pass
    assert lost
    assert contents(fetched(tmp_path)) == contents(tmp_path / "run")


def test_of_a_store_that_lost_its_last_object_the_snapshot_before_is_taken(
    tmp_path, flaw, capsys
):
    save(tmp_path / "run", 10)
    copy(tmp_path / "run")
    before = contents(tmp_path / "run")
    save(tmp_path / "run", 20)
    copy(tmp_path / "run")
    store = store_at()
    first, second = (snapshots.load(store, number) for number in (1, 2))
    piece = sorted(second.pieces().keys() - first.pieces().keys())[-1]
    store.delete(f"blobs/{piece}")
    assert contents(fetched(tmp_path)) == before
    assert "is incomplete (a piece of" in capsys.readouterr().err
    store.write(f"blobs/{piece}", b"other")
    assert contents(fetched(tmp_path, "again")) == before
    # The next copy makes it whole.
    copy(tmp_path / "run")
    assert contents(fetched(tmp_path, "whole")) == contents(tmp_path / "run")
    for name in store.names("blobs"):
        store.delete(f"blobs/{name}")
    with pytest.raises(
        InputError, match="has no whole snapshot of a run; if another start of it"
    ):
        fetched(tmp_path, "nothing")
    assert list((tmp_path / "nothing").iterdir()) == []


def test_what_a_start_before_left_out_does_not_stay(tmp_path, flaw):
    """It had saved nothing, and the run at the address leaves out no image."""
    save(tmp_path / "run", 10)
    copy(tmp_path / "run")
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "left_out.json").write_text('{"train": ["a.jpg"]}')
    fetching.open_mirror("memory://bucket/run", tmp_path / "back", CONFIG)
    assert contents(tmp_path / "back") == contents(tmp_path / "run")


def test_what_a_running_start_replaces_while_it_is_fetched_is_fetched_anew(
    tmp_path, flaw, capsys
):
    """Two more saves, after which the snapshot that is being read is deleted."""
    save(tmp_path / "run", 10)
    copy(tmp_path / "run")
    begun = []

    def overtaken(number, name, path):
        if name == "read" and "blobs" in path and not begun:
            begun.append(path)
            for step in (20, 30):
                save(tmp_path / "run", step, deleted=(step - 10,))
                copy(tmp_path / "run")

    flaw(overtaken)
    assert contents(fetched(tmp_path)) == contents(tmp_path / "run")
    assert begun and "is incomplete" in capsys.readouterr().err


def test_a_broken_link_is_a_warning_and_a_line_at_the_end(tmp_path, flaw, capsys):
    broken = threading.Event()
    broken.set()

    def link(number, name, path):
        if broken.is_set():
            raise ConnectionError("the link is broken")

    flaw(link)
    save(tmp_path / "run", 10)
    copy(tmp_path / "run", seconds=0.5)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("warning: memory://bucket/run can't be reached (the link")
    assert "has no step of this start, and not all of step 10 (the link is" in said[1]
    # A run that has checkpoints goes on; one that has none doesn't begin anew.
    fetching.open_mirror("memory://bucket/run", tmp_path / "run", CONFIG, seconds=0.2)
    assert "the run goes on, and is copied when it can" in capsys.readouterr().err
    with pytest.raises(
        Failure, match="no checkpoint; give the same command again when"
    ):
        fetched(tmp_path)
    store = store_at()
    with Mirror(store, tmp_path / "run").following():
        wait_for(lambda: store.repeated >= 2)
        broken.clear()
    said = capsys.readouterr().err
    assert "is back" in said and "has step 10 of this run" in said


def test_a_work_directory_that_is_away_is_copied_when_it_is_back(
    tmp_path, flaw, capsys, monkeypatch
):
    away, look = threading.Event(), directory.steps_in

    def steps_in(folder):
        if away.is_set():
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return look(folder)

    monkeypatch.setattr(directory, "steps_in", steps_in)
    away.set()
    save(tmp_path / "run", 10)
    heard = []
    with Mirror(store_at(), tmp_path / "run").following():
        wait_for(lambda: heard.append(capsys.readouterr().err) or heard[-1])
        away.clear()
    assert contents(fetched(tmp_path)) == contents(tmp_path / "run")
    (line,) = heard[-1].splitlines()
    assert line.startswith(f"warning: {tmp_path / 'run'} can't be copied to memory://")
    # Away at the end, too.
    away.set()
    with Mirror(store_at(), tmp_path / "run", seconds_at_end=0.5).following():
        pass
    assert "can't be copied" in capsys.readouterr().err


def test_more_files_than_may_be_open_are_said(tmp_path, flaw, capsys, monkeypatch):
    save(tmp_path / "run", 10)
    with monkeypatch.context() as patched:
        patched.setattr(open_files, "allow", lambda needed: needed - 1)
        copy(tmp_path / "run", seconds=0.5)
    said = capsys.readouterr().err.splitlines()
    assert "can't be copied to memory://bucket/run ([Errno" in said[0]
    assert "Too many open files" in said[0]
    assert "has no step of this start, and not all of step 10" in said[1]


def test_a_link_that_breaks_while_it_fetches_is_no_full_disk(tmp_path, flaw):
    save(tmp_path / "run", 10)
    copy(tmp_path / "run")

    def link(number, name, path):
        if name == "read" and "/blobs/" in path:
            raise ConnectionError("the link is broken")

    flaw(link)
    with pytest.raises(Failure, match=r"can't be read and written \(the link is"):
        fetched(tmp_path)


def test_a_disk_that_fills_while_it_fetches_is_no_broken_link(
    tmp_path, flaw, monkeypatch
):
    save(tmp_path / "run", 10)
    copy(tmp_path / "run")
    open_file = Path.open

    def full(self, mode="r", *arguments, **options):
        if self.name == "array" and mode == "ab":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_file(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(Failure, match=r"array can't be written \(No space left"):
        fetched(tmp_path)
    assert not [*(tmp_path / "back").iterdir()]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"config.json": {**CONFIG, "train": {"seed": 2}}},
            "config .*train.seed 2 -> 1",
        ),
        ({"run.json": {"format_version": 99}}, "of format 99, newer than the 2 read"),
        ({"data.json": {"fingerprint": "g"}}, "a run on other data than that in"),
    ],
)
def test_another_runs_mirror_is_refused(tmp_path, flaw, change, said):
    save(tmp_path / "other", 10)
    for name, content in change.items():
        workdirs.write_json(tmp_path / "other" / name, content)
    copy(tmp_path / "other")
    save(tmp_path / "run", 20)
    before = store_at().names("blobs")
    with pytest.raises(InputError, match=f"^memory://bucket/run .*{said}"):
        fetching.open_mirror("memory://bucket/run", tmp_path / "run", CONFIG)
    assert store_at().names("blobs") == before


def test_a_mirror_ahead_or_of_a_newer_format_is_refused(tmp_path, flaw):
    save(tmp_path / "other", 30)
    copy(tmp_path / "other")
    save(tmp_path / "run", 20)
    with pytest.raises(InputError, match="has step 30 of this run, .* only step 20"):
        fetching.open_mirror("memory://bucket/run", tmp_path / "run", CONFIG)
    store_at().write("snapshots/00000002", b'{"format_version": 2}')
    with pytest.raises(InputError, match="is a mirror of format 2, newer than the 1"):
        fetched(tmp_path)


@pytest.mark.parametrize("path", ["../config.json", "checkpoints/1/../../x", "/etc/x"])
def test_a_mirror_of_a_stranger_writes_nowhere_else(tmp_path, flaw, path):
    listed = snapshots.Snapshot(step=1, files={path: (0, [])})
    store_at().write("snapshots/00000001", listed.encoded())
    with pytest.raises(InputError, match="was not written by alexnet_jax alone"):
        fetched(tmp_path)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host/run", r"gs://, s3://, file://, memory:// are known"),
        ("bucket/run", r"must be an address as gs://bucket/folder"),
        ("memory://", r"must be an address as gs://bucket/folder"),
    ],
)
def test_an_address_that_is_none(address, said):
    with pytest.raises(InputError, match=f"--mirror={address} .*{said}"):
        store_at(address)


def test_an_address_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"gcsfs; `pip install .*\[mirror\]"):
        store_at("gs://bucket/run")


class NoCredentialsError(Exception):
    """As botocore's."""


@pytest.mark.parametrize(
    ("address", "raised", "said"),
    [
        (
            *("s3://bucket/run", NoCredentialsError("Unable to locate credentials")),
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        ),
        ("s3://bucket/run", PermissionError("Access Denied"), "set AWS_ACCESS_KEY_ID"),
        (
            *("gs://bucket/run", OSError("Anonymous caller does not have access, 401")),
            "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION",
        ),
    ],
)
def test_an_address_without_credentials_names_how_to_give_them(
    tmp_path, monkeypatch, address, raised, said
):
    class Closed(MemoryFileSystem):
        def find(self, path, *arguments, **options):
            raise raised

    for package in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, package, Closed)
    monkeypatch.setattr(fsspec, "filesystem", lambda _: Closed())
    refused = f"--mirror={address} can't be read and written .*{said}"
    for name in ("new", "begun"):
        if name == "begun":
            save(tmp_path / name, 10)
        with pytest.raises(InputError, match=refused):
            fetching.open_mirror(address, tmp_path / name, CONFIG, seconds=0.2)


def test_of_two_starts_the_one_before_copies_nothing_more(tmp_path, flaw, capsys):
    """A notebook that was given up goes on beside its successor."""
    first, second = tmp_path / "first", tmp_path / "second"
    save(first, 10)
    with Mirror(store_at(), first, seconds_at_end=0.5).following():
        wait_for(lambda: snapshots.numbers(store_at()) == [1])
        fetched(tmp_path, "second")
        with Mirror(store_at(), second).following():
            wait_for(lambda: snapshots.numbers(store_at()) == [1, 2])
            save(first, 90)
            heard_so_far = []

            def heard():
                heard_so_far.append(capsys.readouterr().err)
                return "another start" in "".join(heard_so_far)

            wait_for(heard)
            for step in (20, 30):
                save(second, step)
                wait_for(lambda: newest().step == step)
            save(first, 91)
    said = "".join([*heard_so_far, capsys.readouterr().err])
    assert said.count("another start of this run copies to memory://bucket/run") == 1
    assert "the same command copies it" not in said
    assert f"what it saves is in {first}: end one of them" in said
    assert contents(fetched(tmp_path)) == contents(second)


def newest():
    store = store_at()
    return snapshots.load(store, snapshots.numbers(store)[-1])
