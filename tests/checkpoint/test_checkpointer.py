import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.checkpoint import checkpointer, integrity
from alexnet_jax.checkpoint.checkpointer import Checkpoints
from alexnet_jax.distributed import consensus, multihost
from alexnet_jax.runs import workdir
from alexnet_jax.runtime.errors import Failure, InputError
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


def test_the_latest_two_and_the_best_stay(directory):
    with Checkpoints(directory, clean=True) as checkpoints:
        errors = {1: 0.5, 2: 0.1, 3: None, 4: 0.3, 5: None, 6: None}
        for number, error in errors.items():
            checkpoints.save(number, numbers(number), error)
        checkpoints.wait()
        assert checkpoints.steps == {2: 0.1, 5: None, 6: None}
        assert checkpoints.find("best") == 2
        assert checkpoints.find("latest") == 6
        assert checkpoints.find(5) == 5
        with pytest.raises(InputError, match="no checkpoint of step 3 .* 2, 5, 6"):
            checkpoints.find(3)
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.steps == {2: 0.1, 5: None, 6: None}
        restored = checkpoints.restore(2, numbers(0))
        np.testing.assert_array_equal(restored["weights"], np.full((4, 3), 2.0))


def test_many_saves_leave_no_files_open(directory):
    # The process's open files, on Linux and on macOS.
    folder = Path("/dev/fd")
    with Checkpoints(directory, clean=True) as checkpoints:
        counts = []
        for number in range(1, 13):
            checkpoints.save(number, numbers(number))
            checkpoints.wait()
            counts.append(len(os.listdir(folder)))
    assert counts[-1] <= counts[3]


def test_a_validation_is_added_to_a_checkpoint_that_is_there(directory):
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(3, numbers(3))
        checkpoints.save(3, numbers(9))
        checkpoints.wait()
        assert int(checkpoints.restore(3, numbers(0))["step"]) == 3
        checkpoints.save(3, numbers(4), 0.25)
        checkpoints.wait()
        assert checkpoints.steps == {3: 0.25}
        assert int(checkpoints.restore(3, numbers(0))["step"]) == 4


def test_a_checkpoint_stays_until_it_is_there_with_its_validation(
    directory, monkeypatch
):
    """Whether the second save fails, or the process is killed in it."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(Failure, match="No space left"),
        Checkpoints(directory, clean=True) as checkpoints,
    ):
        checkpoints.save(3, numbers(3))
        checkpoints.wait()
        monkeypatch.setattr(
            checkpoints._checkpointer, "save_checkpointables_async", full
        )
        checkpoints.save(3, numbers(4), 0.25)
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.steps == {3: None}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(directory)])
    assert killed.returncode == -signal.SIGKILL
    with Checkpoints(directory, clean=True) as checkpoints:
        assert checkpoints.steps == {3: None}
        assert int(checkpoints.restore(3, numbers(0))["step"]) == 3
        checkpoints.save(3, numbers(4), 0.25)
        checkpoints.wait()
        assert [path.name for path in directory.iterdir()] == ["3"]
        assert int(checkpoints.restore(3, numbers(0))["step"]) == 4


KILLED = """
import os, signal, sys
from pathlib import Path
import jax.numpy as jnp
from alexnet_jax.checkpoint import Checkpoints

with Checkpoints(Path(sys.argv[1]), clean=True) as checkpoints:
    checkpoints._checkpointer.save_checkpointables_async = lambda *_, **__: os.kill(
        os.getpid(), signal.SIGKILL
    )
    checkpoints.save(3, {"weights": jnp.zeros((4, 3)), "step": jnp.int32(4)}, 0.25)
"""


def test_what_was_replaced_goes_when_the_newer_one_is_found_whole(directory):
    with Checkpoints(directory, clean=True) as checkpoints:
        checkpoints.save(3, numbers(3), 0.25)
    shutil.copytree(directory / "3", directory / "3.replaced")
    with Checkpoints(directory, clean=True) as checkpoints:
        assert checkpoints.steps == {3: 0.25}
        assert (directory / "3.replaced").exists()
        assert checkpoints.restore_latest(numbers(0))[0] == 3
        assert [path.name for path in directory.iterdir()] == ["3"]


@broken_loads
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("part", ["metrics", "state"])
def test_what_was_replaced_is_taken_where_the_newer_one_is_damaged(
    directory, part, capsys
):
    with Checkpoints(directory, clean=True) as checkpoints:
        checkpoints.save(2, numbers(2))
        checkpoints.save(3, numbers(3))
    shutil.copytree(directory / "3", directory.parent / "kept")
    with Checkpoints(directory, clean=True) as checkpoints:
        checkpoints.save(3, numbers(4), 0.25)
    shutil.move(directory.parent / "kept", directory / "3.replaced")
    for path in (directory / "3" / part).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with Checkpoints(directory, clean=True) as checkpoints:
        step, state = checkpoints.restore_latest(numbers(0))
        assert (step, int(state["step"])) == (3, 3)
        assert checkpoints.steps == {2: None, 3: None}
    assert (directory.parent / "damaged" / "3").is_dir()
    assert f"warning: checkpoint {directory / '3'}" in capsys.readouterr().err


def test_a_run_whose_only_checkpoint_is_being_replaced_still_binds(directory):
    with Checkpoints(directory, clean=True) as checkpoints:
        checkpoints.save(3, numbers(3))
    (directory / "3").rename(directory / "3.replaced")
    assert workdir.has_checkpoints(directory.parent)
    with (
        Checkpoints(directory) as checkpoints,
        pytest.raises(InputError, match="which also mends what a kill in a save"),
    ):
        checkpoints.find("latest")


def test_a_lost_process_while_names_change_leaves_the_checkpoint(
    directory, monkeypatch
):
    def lost(what):
        raise multihost.ProcessLost("another process has ended")

    with (
        pytest.raises(multihost.ProcessLost),
        Checkpoints(directory, clean=True) as checkpoints,
    ):
        checkpoints.save(3, numbers(3))
        checkpoints.wait()
        monkeypatch.setattr(multihost, "wait_for_all", lost)
        checkpoints.save(3, numbers(4), 0.25)
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.steps == {3: None}


@pytest.mark.usefixtures("collected")
def test_the_only_checkpoint_stays_where_its_validation_cannot_be_read(directory):
    with Checkpoints(directory, clean=True) as checkpoints:
        checkpoints.save(3, numbers(3), 0.25)
    note = directory / "3" / "metrics" / "metrics"
    whole = note.read_bytes()
    note.write_bytes(b"")
    with pytest.raises(InputError, match=r"no whole checkpoint .*metrics can't be re"):
        Checkpoints(directory, clean=True)
    note.write_bytes(whole)
    with Checkpoints(directory, clean=True) as checkpoints:
        assert checkpoints.steps == {3: 0.25}


def test_no_checkpoint_shows_how_to_make_one(directory):
    with (
        Checkpoints(directory) as checkpoints,
        pytest.raises(InputError, match="alexnet_jax.main --config=NAME --workdir="),
    ):
        checkpoints.find("latest")


MODEL = tiny()
SGD = optimizer.momentum_sgd(make_schedule(steps_per_epoch=1))


@pytest.mark.slow
def test_a_state_restores_on_other_meshes(directory):
    state = step.init_state(MODEL, SGD, mesh_of(1, 2), 67, 0)
    with Checkpoints(directory) as checkpoints:
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


FAULTS = {
    "flipped": lambda data: (
        data[: len(data) // 2]
        + bytes([data[len(data) // 2] ^ 0x10])
        + data[len(data) // 2 + 1 :]
    ),
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "removed": None,
}


@broken_loads
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_is_never_restored_in_silence(tmp_path, fault, capsys):
    """Every file of the latest one: it gives what was saved, or the one before it is
    taken with a warning."""
    whole = tmp_path / "whole" / "checkpoints"
    with Checkpoints(whole) as checkpoints:
        checkpoints.save(1, state(1), 0.5)
        checkpoints.save(2, state(2), 0.25)
        checkpoints.wait()
    files = sorted(
        path.relative_to(whole)
        for path in (whole / "2").rglob("*")
        if path.is_file() and path.stat().st_size
    )
    assert len(files) > 5
    fell_back = 0
    for number, name in enumerate(files):
        directory = tmp_path / f"{number}" / "checkpoints"
        shutil.copytree(whole, directory)
        damage = FAULTS[fault]
        if damage is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(damage((whole / name).read_bytes()))
        with Checkpoints(directory, clean=True) as checkpoints:
            step, restored = checkpoints.restore_latest(state(0))
            told = capsys.readouterr().err
            assert ("warning: " in told) == (step == 1)
            if step == 1:
                fell_back += 1
                assert str(directory / "2") in told
                assert (directory.parent / "damaged" / "2").is_dir()
                checkpoints.save(2, state(2))
                checkpoints.wait()
                assert set(checkpoints.steps) == {1, 2}
        jax.tree.map(np.testing.assert_array_equal, restored, state(step))
    assert fell_back >= 2


def test_all_processes_take_the_checkpoint_that_all_can_read(directory, monkeypatch):
    """As if another process could not read the latest, which is whole here."""
    with Checkpoints(directory, clean=True) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.save(2, state(2))
        checkpoints.wait()
        answers = iter([False, True])
        monkeypatch.setattr(consensus, "all_of", lambda well: next(answers))
        step, restored = checkpoints.restore_latest(state(0))
        assert step == 1
        assert set(checkpoints.steps) == {1}
    jax.tree.map(np.testing.assert_array_equal, restored, state(1))
    assert (directory.parent / "damaged" / "2").is_dir()


def test_want_of_memory_is_no_damage(directory, monkeypatch):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    with Checkpoints(directory, clean=True) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
        monkeypatch.setattr(checkpointer.ocp, "load", fail)
        with pytest.raises(jax.errors.JaxRuntimeError, match="Out of memory"):
            checkpoints.restore_latest(state(0))
    assert (directory / "1").is_dir()


@broken_loads
@pytest.mark.usefixtures("collected")
def test_where_no_checkpoint_is_whole_they_stay(directory):
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
    for path in (directory / "1" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with (
        Checkpoints(directory) as checkpoints,
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
    with pytest.raises(InputError, match=r"7/\w+ is one file of more than 40"):
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
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
        add(directory / "1")
        with pytest.raises(InputError, match=why):
            checkpoints.restore(1, state(0))
    with pytest.raises(InputError, match=why):
        Checkpoints(directory)


FULL = """
import pathlib, resource, sys
import jax.numpy as jnp
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import exit_with

def main():
    with Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
        checkpoints.save(1, {"a": jnp.arange(9999.0)})
        checkpoints.wait()
        # No file may have more bytes, as if the disk were full.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
        checkpoints.save(2, {"a": jnp.arange(9999.0)})
        checkpoints.wait()

exit_with(main)
"""


def test_a_full_disk_is_told_in_one_line_and_the_last_checkpoint_is_whole(directory):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(directory)], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    (line,) = [t for t in done.stderr.splitlines() if t.startswith("error: ")]
    assert line.startswith(f"error: {directory} can't be written (")
    assert "Traceback" not in done.stderr
    with Checkpoints(directory, clean=True) as checkpoints:
        step, restored = checkpoints.restore_latest({"a": jnp.zeros(9999)})
    assert step == 1
    np.testing.assert_array_equal(restored["a"], np.arange(9999.0))
    assert [path.name for path in directory.iterdir()] == ["1"]


@broken_loads
@pytest.mark.usefixtures("collected")
def test_another_network_is_refused_in_one_line(directory):
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, numbers(1))
        checkpoints.wait()
        with pytest.raises(InputError, match="of another network"):
            checkpoints.restore(1, {"weights": jnp.zeros((2, 2)), "step": jnp.int32(0)})
