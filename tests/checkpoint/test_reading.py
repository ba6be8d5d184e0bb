"""What counts as saved, and what keeps a checkpoint from being restored."""

import contextlib
import errno
import gc
import itertools
import os
import re
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.checkpoint import checkpointer, reader
from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.checkpoint.errors import Damaged, Gone, OtherNetwork
from alexnet_jax.checkpoint.reader import CheckpointReader
from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.errors import Failure, InputError

from watch import contents


# More than a MiB: too large for a checksum of its file.
LARGE = np.random.default_rng(0).standard_normal((600, 600)).astype(np.float32)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "run" / "checkpoints"


@pytest.fixture(autouse=True)
def collected():
    """After a failed load Orbax leaves coroutines, which complain when collected."""
    yield
    gc.collect()


pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def state(value):
    return {"a": jnp.full((4, 3), value, jnp.float32), "step": jnp.int32(value)}


def save(directory, *steps, make=state):
    with CheckpointWriter(directory, keep_latest=9) as checkpoints:
        for step in steps:
            checkpoints.save(step, make(step))


@pytest.mark.parametrize(
    "name", ["lr=[0.1]", "a\\b", "a*b?", "logs:", "a'b{c}", os.fsdecode(b"\xff")]
)
def test_a_checkpoint_is_saved_whatever_its_path(tmp_path, name):
    """Hydra's folders, and what Orbax takes for a pattern, a slash or an address."""
    directory = tmp_path / name / "checkpoints"
    save(directory, 1, 2)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    restored = CheckpointReader(directory).restore(2, state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, state(2))


def test_what_cannot_be_read_back_deletes_nothing(tmp_path, monkeypatch, capsys):
    """As Orbax saves below a pattern: it writes no list of arrays, without an error."""
    directory = tmp_path / "lr=[0.1]" / "checkpoints"
    save(directory, 1, 2)
    monkeypatch.setattr(checkpointer, "plain", contextlib.nullcontext)
    with (
        pytest.raises(Failure, match="can't be read back: .*before it are kept"),
        CheckpointWriter(directory, keep_latest=2) as checkpoints,
    ):
        checkpoints.save(3, state(3))
        checkpoints.wait()
    assert set(CheckpointReader(directory).steps) >= {1, 2}
    with CheckpointWriter(directory) as checkpoints:
        found = checkpoints.restore(2, state(0))
        jax.tree.map(np.testing.assert_array_equal, found, state(2))


def test_a_checkpoint_counts_when_it_is_on_the_disk_and_then_an_older_one_goes(
    directory, monkeypatch
):
    """Every file and folder is synced under a name that no start takes for one, and
    after `before`; then the folder that holds the new name."""
    events = []
    sync, rename = atomic.sync, Path.rename

    def synced(path):
        events.append(path.relative_to(directory.parent).as_posix())
        sync(path)

    def renamed(path, target):
        events.append((path.name, Path(target).name))
        return rename(path, target)

    with CheckpointWriter(directory, keep_latest=1) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
        monkeypatch.setattr(atomic, "sync", synced)
        monkeypatch.setattr(Path, "rename", renamed)
        checkpoints.save(2, state(2), lambda: events.append("before"))
        checkpoints.wait()
    monkeypatch.undo()
    assert set(CheckpointReader(directory).steps) == {2}
    written = [directory / "2", *(directory / "2").rglob("*")]
    named = events.index(("2.saving", "2"))
    assert events[0] == "before"
    assert {
        f"checkpoints/2.saving{path.as_posix().removeprefix(str(directory / '2'))}"
        for path in written
        if path.name != "files.json"
    } == {*events[1:named]}
    assert events[named:] == [
        ("2.saving", "2"),
        "checkpoints",
        ("1", "1.deleted"),
    ]


def test_what_must_be_on_the_disk_first_keeps_a_checkpoint_from_counting(directory):
    def full():
        raise Failure("metrics.jsonl can't be written")

    with (
        pytest.raises(Failure, match=r"metrics.jsonl can't"),
        CheckpointWriter(directory) as checkpoints,
    ):
        checkpoints.save(1, state(1))
        checkpoints.save(2, state(2), full)
        checkpoints.wait()
    assert set(CheckpointReader(directory).steps) == {1}
    with CheckpointWriter(directory) as checkpoints:
        assert checkpoints.restore_latest(state(0))[0] == 1
    assert [path.name for path in directory.iterdir()] == ["1"]


def test_a_disk_that_is_full_when_it_syncs_keeps_what_it_has(directory, disk):
    """At every fifth sync of a save, and at that of its name, which is the last."""
    save(directory, 1)
    before = contents(directory)

    def counts_after(**full) -> bool | None:
        """Whether a checkpoint counts whose save found no room; None if it found it."""
        shutil.rmtree(directory / "2", ignore_errors=True)
        disk.begin(**full)
        try:
            save(directory, 2)
        except Failure as error:
            assert re.search("can't be written .*No space left on device", str(error))
        else:
            return None
        with CheckpointWriter(directory) as checkpoints:
            assert {*checkpoints.steps} in ({1}, {1, 2})
        found = contents(directory)
        assert {path: found[path] for path in before} == before
        assert {path.parts[-2] for path in directory.glob("*/files.json")} == {
            *map(str, checkpoints.steps)
        }
        return 2 in checkpoints.steps

    # Orbax writes more or fewer files from save to save, so that only trying tells how
    # many syncs one has.
    tried = (counts_after(room=room) for room in itertools.count(step=5))
    counted = [*itertools.takewhile(lambda counts: counts is not None, tried)]
    assert len(counted) > 2
    assert not any(counted[:-1])
    assert counts_after(full=(directory / "2").exists) is True
    assert counts_after() is None
    assert set(CheckpointReader(directory).steps) == {1, 2}


def test_checkpoints_of_every_so_many_steps_stay(directory):
    with CheckpointWriter(directory, keep_latest=1, keep_every=4) as checkpoints:
        for step in (2, 4, 6, 8, 9):
            checkpoints.save(step, state(step))
    assert set(CheckpointReader(directory).steps) == {4, 8, 9}
    with pytest.raises(InputError, match="checkpoint.keep_every=-1"):
        CheckpointWriter(directory, keep_every=-1)


@pytest.mark.parametrize(
    ("fault", "noted"),
    [
        pytest.param("removed", True, marks=pytest.mark.extended),
        pytest.param("cut", True, marks=pytest.mark.extended),
        pytest.param("flipped", True, marks=pytest.mark.slow),
        pytest.param("flipped", False, marks=pytest.mark.slow),
    ],
)
def test_damage_is_called_damage(directory, fault, noted):
    """Each file: it gives what was saved or is called damaged, with its list of files
    or, as before version 0.3, without."""
    made = lambda step: {"a": jnp.asarray(LARGE + step), "b": jnp.arange(3.0)}
    save(directory, 1, make=made)
    listed = directory / "1" / "files.json"
    if not noted:
        listed.unlink()
    files = [p for p in (directory / "1").rglob("*") if p.is_file() and p != listed]
    damaged = []
    for file in files:
        before = file.read_bytes()
        middle = len(before) // 2
        if fault == "removed":
            file.unlink()
        elif fault == "cut":
            file.write_bytes(before[:middle])
        else:
            changed = bytes(byte ^ 0x10 for byte in before[middle : middle + 1])
            file.write_bytes(before[:middle] + changed + before[middle + 1 :])
        try:
            restored = CheckpointReader(directory).restore(1, made(0))
            jax.tree.map(np.testing.assert_array_equal, restored, made(1))
        except Damaged as error:
            damaged.append(file)
            assert str(directory / "1") in str(error)
            assert "remove" not in str(error)
        file.write_bytes(before)
    large = max(files, key=lambda file: file.stat().st_size)
    assert large in damaged and len(damaged) > 4


def broken_library(*_, **__):
    raise ValueError("NOT_FOUND: no codec of this name")


def too_many_open_files(*_, **__):
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("fail", [broken_library, too_many_open_files])
def test_what_cannot_be_opened_stays_where_it_is(directory, monkeypatch, fail, capsys):
    save(directory, 1, 2)
    before = contents(directory)
    monkeypatch.setattr(reader.ocp, "load", fail)
    with CheckpointWriter(directory) as checkpoints:
        with pytest.raises(
            InputError, match="can't be opened .*(codec|files)"
        ) as caught:
            checkpoints.restore_latest(state(0))
        assert not isinstance(caught.value, Damaged)
    assert contents(directory) == before
    assert "moved" not in capsys.readouterr().err


def test_another_network_is_not_damage(directory):
    save(directory, 1)
    before = contents(directory)
    with CheckpointWriter(directory) as checkpoints:
        for other in ({"a": jnp.zeros(2)}, {"c": jnp.zeros(2)}):
            with pytest.raises(OtherNetwork, match="of another network"):
                checkpoints.restore_latest(other)
    assert contents(directory) == before


@contextlib.contextmanager
def another_user():
    """Without the rights of root, which may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["", "state", "state/_METADATA", "state/d"])
def test_what_may_not_be_read_names_the_permission(name):
    """A folder of temporary files may be closed to other users; this one is not."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, "checkpoints")
        save(directory, 1)
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)
        closed = directory / "1" / name
        closed.chmod(0)
        with another_user(), pytest.raises(InputError, match="ermission") as caught:
            CheckpointReader(directory).restore(1, state(0))
        assert not isinstance(caught.value, Damaged)
        assert str(closed) in str(caught.value)
        closed.chmod(0o755)


def test_a_reader_takes_the_next_where_a_run_deletes_its_checkpoint(directory, capsys):
    save(directory, 1, 2)
    found = CheckpointReader(directory)
    step = found.find("latest")
    save(directory, 3)
    shutil.rmtree(directory / "2")
    with pytest.raises(Gone, match="no longer there"):
        found.restore(2, state(0))
    step, restored = found.restore_chosen(step, "latest", state(0))
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, restored, state(3))
    assert "taking step 3" in capsys.readouterr().err
    with pytest.raises(Gone):
        found.restore_chosen(2, 2, state(0))


@pytest.mark.parametrize("alive", [True, False])
def test_a_drive_that_was_away_gets_the_state_later(
    directory, monkeypatch, capsys, alive
):
    """Again the same state, if it is there; else the next save takes its place."""
    start, failures = CheckpointWriter._start, [1]

    def away(self, saving):
        done = start(self, saving)
        if saving.step != 2 or not failures:
            return done

        def fail():
            done()
            shutil.rmtree(directory / "2")
            raise OSError(failures.pop() and errno.ENOTCONN, "not connected")

        return fail

    monkeypatch.setattr(CheckpointWriter, "_start", away)
    with CheckpointWriter(directory) as checkpoints:
        for step in (1, 2, 3):
            given = state(step)
            checkpoints.save(step, given)
            if step == 2 and not alive:
                given["a"].delete()
        checkpoints.wait()
        assert set(checkpoints.steps) == ({2, 3} if alive else {1, 3})
    assert set(CheckpointReader(directory).steps) == ({2, 3} if alive else {1, 3})
    assert ("step 2 is not saved" in capsys.readouterr().err) != alive
