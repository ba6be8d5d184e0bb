"""One run at a time in a work directory."""

import errno
import os
import subprocess
import sys

import pytest

from alexnet_jax.runtime.errors import Failure, InputError
from alexnet_jax.runtime.lock import LOCK_FILE, WITHOUT_LOCKS, locked


HOLD = """
import pathlib, sys
from alexnet_jax.runtime.lock import locked
with locked(pathlib.Path(sys.argv[1]), "it is in use"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_names_the_holder(tmp_path, holder):
    with (
        pytest.raises(
            InputError, match=rf"in use by process {holder.pid} on \S+ since"
        ),
        locked(tmp_path, "it is in use"),
    ):
        pass
    assert (tmp_path / LOCK_FILE).exists()


def test_the_lock_of_a_killed_process_locks_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path, "it is in use"):
        pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path, "it is in use"):
        raise RuntimeError
    with locked(tmp_path, "it is in use"):
        pass


def test_a_lock_that_cannot_be_removed_hides_no_error(tmp_path, monkeypatch):
    def unlink(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", unlink)
        with pytest.raises(RuntimeError), locked(tmp_path, "it is in use"):
            raise RuntimeError
    with locked(tmp_path, "it is in use"):
        pass


@pytest.mark.parametrize("number", WITHOUT_LOCKS)
def test_a_file_system_without_locks_is_said_once(
    tmp_path, number, monkeypatch, capsys
):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    for _ in range(2):
        with locked(tmp_path, "it is in use"):
            pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / LOCK_FILE} can't be locked on this file sys")
    monkeypatch.setattr("fcntl.flock", lambda *_: os.stat(tmp_path / "no"))
    with pytest.raises(Failure, match="can't be written"), locked(tmp_path, "in use"):
        pass
