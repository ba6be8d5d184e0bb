"""What is in a folder, on a drive that may be away."""

import errno
import os
from pathlib import Path

import pytest

from alexnet_jax.checkpoint import directory
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runtime import atomic, listing


def make(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    for name in ("z", "a/y", "a/b/x"):
        (root / name).write_text(name)


def test_files_at_any_depth_and_no_folders(tmp_path):
    make(tmp_path)
    (tmp_path / "link").symlink_to("a")
    found = [
        path.relative_to(tmp_path).as_posix() for path in listing.files_in(tmp_path)
    ]
    assert found == ["a/b/x", "a/y", "z"]


def test_what_is_there(tmp_path):
    make(tmp_path)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "nowhere").symlink_to("gone")
    folders = ["a", "z", "z/below", "none", "link", "nowhere"]
    assert [listing.is_folder(tmp_path / name) for name in folders] == [
        *(True, False, False, False, True, False)
    ]
    assert [listing.is_file(tmp_path / name) for name in folders] == [
        *(False, True, False, False, False, False)
    ]


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A folder whose drive is away: neither it nor what is in it can be seen."""
    folder = tmp_path / "run" / "checkpoints" / "500"
    folder.mkdir(parents=True)
    (folder / "file").touch()

    def lost(function):
        def answer(path=".", *arguments, **options):
            if isinstance(path, (str, os.PathLike)) and "500" in Path(path).parts:
                raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))
            return function(path, *arguments, **options)

        return answer

    monkeypatch.setattr(os, "scandir", lost(os.scandir))
    monkeypatch.setattr(os, "stat", lost(os.stat))
    # As `pathlib` of Python 3.14 asks, which takes every error for a no.
    monkeypatch.setattr(Path, "is_dir", lambda path: os.path.isdir(path))
    return folder


@pytest.mark.parametrize(
    "look",
    [
        lambda folder: listing.files_in(folder),
        lambda folder: atomic.sync_tree(folder),
        lambda folder: directory.steps_in(folder.parent),
        lambda folder: workdirs.has_checkpoints(folder),
    ],
)
def test_a_drive_that_is_away_is_no_empty_folder(away, look):
    with pytest.raises(OSError, match="Input/output error"):
        look(away)
