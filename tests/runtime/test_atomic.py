"""Files that are written whole."""

import errno
import os

import pytest

from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.errors import Failure


def test_a_name_that_is_not_utf_8_is_written_with_escapes(tmp_path):
    atomic.replace(tmp_path / "page.html", "data of r\udce9sum\u00e9")
    written = (tmp_path / "page.html").read_bytes()
    assert written.decode("utf-8") == "data of r\\udce9sum\u00e9"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(("room", "left"), [(0, "old"), (1, "new")])
def test_a_disk_that_is_full_when_it_syncs_leaves_the_old_or_the_new_file(
    tmp_path, disk, room, left
):
    """Room for none, and for the file but not for its name."""
    path = tmp_path / "file"
    path.write_text("old")
    disk.begin(room)
    with pytest.raises(OSError, match="No space left"):
        atomic.replace(path, "new")
    assert [p.read_text() for p in tmp_path.iterdir()] == [left]


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (errno.ENOSPC, "No space left on device); free some space or fix the disk, "),
        (errno.EACCES, "Permission denied); get the right to write there, then give"),
    ],
)
def test_what_to_do_about_a_file_that_cannot_be_written(tmp_path, number, way):
    with pytest.raises(Failure) as caught, atomic.writing(tmp_path):
        raise OSError(number, os.strerror(number))
    assert f"{tmp_path} can't be written ({way}" in str(caught.value)
