import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.checkpoint import directory as directories
from alexnet_jax.checkpoint import integrity, reader
from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.checkpoint.reader import CheckpointReader
from alexnet_jax.distributed import consensus
from alexnet_jax.runtime.errors import Failure, InputError, Interrupted
from alexnet_jax.training import optimizer, step
from alexnet_jax.training.schedule import make_schedule

from networks import flat, mesh_of, tiny


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "run" / "checkpoints"


# After a failed load Orbax leaves coroutines to the collector, which then complains of
# them: here and now, and not in some later test.
@pytest.fixture
def collected():
    yield
    gc.collect()


broken_loads = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def numbers(value):
    return {"weights": jnp.full((4, 3), value), "step": jnp.int32(value)}


def errors(top1):
    return {"loss": 1.0, "top1_error": top1, "top5_error": 0.0}


def save(checkpoints, step, state, error=None):
    """Save a state, and its validation where there is one."""
    checkpoints.save(step, state)
    if error is not None:
        checkpoints.record_validation(step, errors(error))


def test_the_latest_two_and_the_best_stay(directory):
    with CheckpointWriter(directory) as checkpoints:
        found = {1: 0.5, 2: 0.1, 3: None, 4: 0.3, 5: None, 6: None}
        for number, error in found.items():
            save(checkpoints, number, numbers(number), error)
        checkpoints.wait()
        assert checkpoints.steps == {2: 0.1, 5: None, 6: None}
        assert checkpoints.find("best") == 2
        assert checkpoints.find("latest") == 6
        assert checkpoints.find(5) == 5
        with pytest.raises(InputError, match="no checkpoint of step 3 .* 2, 5, 6"):
            checkpoints.find(3)
    found = CheckpointReader(directory)
    assert found.steps == {2: 0.1, 5: None, 6: None}
    restored = found.restore(2, numbers(0))
    np.testing.assert_array_equal(restored["weights"], np.full((4, 3), 2.0))


def test_many_saves_leave_no_files_open(directory):
    # The process's open files, on Linux and on macOS.
    folder = Path("/dev/fd")
    with CheckpointWriter(directory) as checkpoints:
        counts = []
        for number in range(1, 13):
            checkpoints.save(number, numbers(number))
            checkpoints.wait()
            counts.append(len(os.listdir(folder)))
    assert counts[-1] <= counts[3]


def test_a_state_is_written_once_and_its_validation_added(directory, monkeypatch):
    """A second save of the step writes nothing; the validation touches no array."""
    with CheckpointWriter(directory) as checkpoints:
        checkpoints.save(3, numbers(3))
        checkpoints.save(3, numbers(9))
        checkpoints.wait()
        before = {path: path.read_bytes() for path in files_of(directory / "3")}
        checkpoints.record_validation(3, errors(0.25))
        assert checkpoints.steps == {3: 0.25}
        assert int(checkpoints.restore(3, numbers(0))["step"]) == 3
    after = {path: path.read_bytes() for path in files_of(directory / "3")}
    note = directory / "3" / directories.VALIDATION_FILE
    assert json.loads(after.pop(note))["top1_error"] == 0.25
    assert after == before


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


KILLED = """
import os, signal, sys
from pathlib import Path
import jax.numpy as jnp
from alexnet_jax.checkpoint import directory as directories
from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.runtime import atomic

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

with CheckpointWriter(Path(sys.argv[1])) as checkpoints:
    state = {"weights": jnp.zeros((4, 3), jnp.int32), "step": jnp.int32(3)}
    checkpoints.save(3, state)
    checkpoints.wait()
    if sys.argv[2] == "validation":
        # After the note's bytes are written, before they have their name.
        Path.replace = kill
        checkpoints.record_validation(3, {"top1_error": 0.5})
    else:
        directories.shutil.rmtree = kill
        for step in (4, 5):
            checkpoints.save(step, {**state, "step": jnp.int32(step)})
        checkpoints.wait()
"""


@pytest.mark.parametrize("place", ["validation", "deletion"])
def test_a_kill_leaves_whole_checkpoints(directory, place):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(directory), place])
    assert killed.returncode == -signal.SIGKILL
    steps = {"validation": [3], "deletion": [4, 5]}[place]
    assert CheckpointReader(directory).steps == dict.fromkeys(steps)
    with CheckpointWriter(directory) as checkpoints:
        checkpoints.restore_latest(numbers(0))
        checkpoints.record_validation(steps[-1], errors(0.5))
    assert CheckpointReader(directory).steps[steps[-1]] == 0.5
    names = sorted(path.name for path in directory.iterdir())
    assert names == [str(step) for step in steps]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"0.25", b"0.24"),
        lambda data: b"[]",
        lambda data: b"\xff",
    ],
)
def test_a_damaged_validation_counts_as_none(directory, damage):
    """The run then validates again, with the same result; the checkpoint is whole."""
    with CheckpointWriter(directory) as checkpoints:
        save(checkpoints, 3, numbers(3), 0.25)
    note = directory / "3" / directories.VALIDATION_FILE
    note.write_bytes(damage(note.read_bytes()))
    assert CheckpointReader(directory).steps == {3: None}
    with CheckpointWriter(directory) as checkpoints:
        assert checkpoints.validation_error(3) is None
        assert int(checkpoints.restore_latest(numbers(0))[1]["step"]) == 3
        checkpoints.record_validation(3, errors(0.25))
        assert checkpoints.validation_error(3) == 0.25


def test_no_checkpoint_shows_how_to_make_one(directory):
    with pytest.raises(InputError, match="alexnet_jax.main --config=NAME --workdir="):
        CheckpointReader(directory).find("latest")


MODEL = tiny()
SGD = optimizer.momentum_sgd(make_schedule(steps_per_epoch=1))


@pytest.mark.slow
def test_a_state_restores_on_other_meshes(directory):
    state = step.init_state(MODEL, SGD, mesh_of(1, 2), 67, 0)
    with CheckpointWriter(directory) as checkpoints:
        checkpoints.save(0, state)
        checkpoints.wait()
        for shape in ((1, 1), (1, 2), (2, 1)):
            mesh = mesh_of(*shape)
            abstract = step.abstract_state(MODEL, SGD, mesh, 67)
            restored = checkpoints.restore(0, abstract)
            assert type(restored) is step.TrainState
            for name, array in flat(state._asdict()).items():
                np.testing.assert_array_equal(flat(restored._asdict())[name], array)
            kernel = restored.params["conv1"]["kernel"]
            assert kernel.sharding.mesh == mesh
            parameters = checkpoints.restore(0, {"params": abstract.params})
            assert set(parameters) == {"params"}
            np.testing.assert_array_equal(
                parameters["params"]["conv1"]["kernel"], kernel
            )


def state(seed):
    key = jax.random.key(seed)
    return {"a": jax.random.normal(key, (64, 64)), "b": jnp.arange(5.0) + seed}


@broken_loads
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("fault", ["cut", "emptied", "removed"])
def test_a_damaged_checkpoint_is_moved_and_the_one_before_taken(
    directory, fault, capsys
):
    """`test_reading.py` damages every file in turn."""
    with CheckpointWriter(directory) as checkpoints:
        save(checkpoints, 1, state(1), 0.5)
        save(checkpoints, 2, state(2), 0.25)
    largest = max(files_of(directory / "2"), key=lambda path: path.stat().st_size)
    if fault == "removed":
        largest.unlink()
    else:
        data = largest.read_bytes()
        largest.write_bytes(data[: len(data) // 2] if fault == "cut" else b"")
    with CheckpointWriter(directory) as checkpoints:
        step, restored = checkpoints.restore_latest(state(0))
        assert step == 1
        messages = capsys.readouterr().err
        assert "warning: " in messages and str(directory / "2") in messages
        assert (directory.parent / "damaged" / "2").is_dir()
        checkpoints.save(2, state(2))
        checkpoints.wait()
        assert set(checkpoints.steps) == {1, 2}
    jax.tree.map(np.testing.assert_array_equal, restored, state(1))


def test_all_processes_take_the_checkpoint_that_is_whole_for_all(
    directory, monkeypatch
):
    """As if another process had found damage in the latest, which is whole here."""
    with CheckpointWriter(directory) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.save(2, state(2))
        checkpoints.wait()
        # Whole everywhere? Damaged nowhere? The one before: whole everywhere?
        answers = iter([False, False, True])
        monkeypatch.setattr(consensus, "all_of", lambda well: next(answers))
        step, restored = checkpoints.restore_latest(state(0))
        assert step == 1
        assert set(checkpoints.steps) == {1}
    jax.tree.map(np.testing.assert_array_equal, restored, state(1))
    assert (directory.parent / "damaged" / "2").is_dir()


def test_want_of_memory_is_no_damage(directory, monkeypatch):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    with CheckpointWriter(directory) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
        monkeypatch.setattr(reader.ocp, "load", fail)
        with pytest.raises(jax.errors.JaxRuntimeError, match="Out of memory"):
            checkpoints.restore_latest(state(0))
    assert (directory / "1").is_dir()


@broken_loads
@pytest.mark.usefixtures("collected")
def test_where_no_checkpoint_is_whole_they_stay(directory):
    with CheckpointWriter(directory) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
    for path in (directory / "1" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with (
        CheckpointWriter(directory) as checkpoints,
        pytest.raises(InputError, match=f"checkpoint {directory / '1'}"),
    ):
        checkpoints.restore_latest(state(0))
    assert (directory / "1").is_dir()


def test_many_checkpoints_are_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "MAX_FILES", 40)
    for name in map(str, range(30)):
        (tmp_path / name).mkdir()
        for number in range(30):
            (tmp_path / name / f"file{number}").touch()
    integrity.check_files(tmp_path)
    for number in range(11):
        (tmp_path / "7" / f"more{number}").touch()
    with pytest.raises(InputError, match=r"7/\w+ is one of more than 40"):
        integrity.check_files(tmp_path)


def add_link(path):
    (path / "link").symlink_to("/etc/passwd")


def add_folder_link(path):
    (path / "state" / "more").symlink_to("/etc")


def add_pipe(path):
    os.mkfifo(path / "state" / "pipe")


def add_huge_note(path):
    with (path / "state" / "_METADATA").open("ab") as file:
        file.truncate(2**40)


@pytest.mark.parametrize(
    ("add", "why"),
    [
        (add_link, "link is neither a file nor a folder"),
        (add_folder_link, "more is neither a file nor a folder"),
        (add_pipe, "pipe is neither a file nor a folder"),
        (add_huge_note, "_METADATA has 1099511627776 bytes"),
    ],
)
def test_a_checkpoint_of_other_than_plain_files_is_refused(directory, add, why):
    with CheckpointWriter(directory) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
        add(directory / "1")
        with pytest.raises(InputError, match=why):
            checkpoints.restore(1, state(0))
    with pytest.raises(InputError, match=why):
        CheckpointReader(directory)


FULL = """
import pathlib, resource, sys
import jax.numpy as jnp
from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.runtime.cli import run_command

def main():
    with CheckpointWriter(pathlib.Path(sys.argv[1])) as checkpoints:
        checkpoints.save(1, {"a": jnp.arange(9999.0)})
        checkpoints.wait()
        # No file may have more bytes, as if the disk were full.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
        checkpoints.save(2, {"a": jnp.arange(9999.0)})
        checkpoints.wait()

run_command(main)
"""


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_whole(directory):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(directory)], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    (line,) = [t for t in done.stderr.splitlines() if t.startswith("error: ")]
    assert line.startswith(f"error: {directory} can't be written (")
    assert "Traceback" not in done.stderr
    with CheckpointWriter(directory) as checkpoints:
        step, restored = checkpoints.restore_latest({"a": jnp.zeros(9999)})
    assert step == 1
    np.testing.assert_array_equal(restored["a"], np.arange(9999.0))
    assert [path.name for path in directory.iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("ends", "raised"),
    [(Interrupted(signal.SIGTERM), Failure), (ZeroDivisionError(), ZeroDivisionError)],
)
def test_a_stop_does_not_hide_a_save_that_fails(directory, monkeypatch, ends, raised):
    def full(checkpoints, saving):
        raise Failure("the disk is full")

    monkeypatch.setattr(CheckpointWriter, "_commit", full)
    with pytest.raises(raised), CheckpointWriter(directory) as checkpoints:
        checkpoints.save(1, numbers(1))
        raise ends


@broken_loads
@pytest.mark.usefixtures("collected")
def test_another_network_is_refused_in_one_line(directory):
    with CheckpointWriter(directory) as checkpoints:
        checkpoints.save(1, numbers(1))
        checkpoints.wait()
        with pytest.raises(InputError, match="of another network"):
            checkpoints.restore(1, {"weights": jnp.zeros((2, 2)), "step": jnp.int32(0)})
