"""The image files that a user names."""

import os

import pytest

from alexnet_jax.data import image_paths
from alexnet_jax.runtime.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name in ("cat/1.jpg", "cat/._1.jpg", "dog/2.jpg", "dog/notes.txt", "3.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    return tmp_path


def found(folder, *names):
    paths = image_paths.find([str(folder / name) for name in names])
    return [path.relative_to(folder).as_posix() for path in paths]


def test_what_a_folder_has_besides_images_is_counted(folder, capsys):
    assert found(folder, "") == ["3.jpg", "cat/1.jpg", "dog/2.jpg"]
    line = f"{folder}: 2 files left out (1 .txt, 1 hidden)\n"
    assert capsys.readouterr().err == line


def test_a_pattern_stands_for_files_and_folders(folder):
    assert found(folder, "*") == ["3.jpg", "cat/1.jpg", "dog/2.jpg"]
    assert found(folder, "**/1.*", "d?g") == ["cat/1.jpg", "dog/2.jpg"]
    (folder / "[1].jpg").write_bytes(b"no image")
    assert found(folder, "[1].jpg") == ["[1].jpg"]


def test_a_file_that_is_named_is_taken_whatever_it_is(folder):
    named = ["dog/notes.txt", "cat/._1.jpg", "cat"]
    assert found(folder, *named) == ["dog/notes.txt", "cat/._1.jpg", "cat/1.jpg"]
    (folder / "link.jpg").symlink_to("nowhere.jpg")
    ((path, image, error),) = image_paths.shown([folder / "link.jpg"], 9)
    assert found(folder, "link.jpg") == [path.name]
    assert image is None
    assert "link.jpg is a link to nowhere.jpg, which does not exist" in str(error)


def test_where_nothing_is_found_it_says_so(folder):
    (folder / "empty").mkdir()
    name = os.fsdecode(b"\xe9*")
    for given, message in {
        "empty": "empty has no image in it",
        "no*": r"no\* does not exist",
        name: r"\\xe9\* does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            found(folder, given)
