"""Waiting for a drive that is away."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from alexnet_jax.runtime import patience
from alexnet_jax.runtime.errors import Failure


def failing(times, number):
    """A function that fails so often."""
    left = [number] * times

    def action():
        if left:
            number = left.pop()
            raise OSError(number, os.strerror(number))
        return "done"

    return action


@pytest.mark.parametrize("number", patience.AWAY)
def test_what_comes_back_in_time_is_waited_for(tmp_path, number, capsys):
    assert patience.until_reachable(tmp_path, failing(2, number)) == "done"
    away, back = capsys.readouterr().err.splitlines()
    assert away.startswith(f"warning: {tmp_path} can't be reached")
    assert away.endswith("trying again for 10 minutes")
    assert back == f"{tmp_path} is back"
    with pytest.raises(OSError, match=os.strerror(number)):
        patience.until_reachable(tmp_path, failing(99, number), seconds=0.2)


def test_other_errors_are_raised_at_once(tmp_path):
    with pytest.raises(OSError, match="No space"):
        patience.until_reachable(tmp_path, failing(1, errno.ENOSPC))


def test_threads_that_wait_for_one_drive_say_it_once(tmp_path, capsys):
    all_there = threading.Barrier(4)

    def wait(action):
        # Each has begun before the first sees the drive again.
        first = iter([all_there.wait])

        def meeting():
            for meet in first:
                meet(60)
            return action()

        return patience.until_reachable(tmp_path, meeting)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(wait, [failing(2, errno.ESTALE) for _ in range(4)]))
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_missing_or_broken_file_is_no_drive_that_is_away(tmp_path):
    def gone(number, folder=tmp_path):
        return patience.is_gone(OSError(number, os.strerror(number)), folder)

    assert gone(errno.ENOTCONN)
    assert gone(errno.ESTALE)
    assert not gone(errno.EACCES)
    # A bad sector, or one file that is not there.
    assert not gone(errno.EIO)
    assert not gone(errno.ENOENT)
    # The whole folder is.
    assert gone(errno.EIO, tmp_path / "no")
    assert gone(errno.ENOENT, tmp_path / "no")
    # As C++ libraries report it.
    assert patience.is_gone(RuntimeError("read: Stale file handle"), tmp_path)
    assert isinstance(patience.cannot_reach("x", OSError()), Failure)
