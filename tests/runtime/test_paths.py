"""Paths that users give."""

from pathlib import Path

import pytest

from alexnet_jax.runtime.cli import Parser, path_text
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.paths import distinct_names, local


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("gs://bucket/run", "mount it as a folder"),
        ("s3://bucket", "mount it as a folder"),
        ("hf://datasets/x", "mount it as a folder"),
        ("https://host/cat.jpg", "download it"),
        ("file:///data/run", "give the path alone"),
        (Path("gs://bucket/run"), "mount it as a folder"),
    ],
)
def test_an_address_is_no_path(given, advice):
    with pytest.raises(InputError, match=f"^data.path={given} is an .*{advice}"):
        local(given, "data.path")


def test_the_home_and_names_with_colons(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("logs:").mkdir()
    Path("stimuli.h5").touch()
    assert local("~/run") == tmp_path / "run"
    for plain in ("run", "a:b/run", "imagenette/full-size-v2", "./s3:/x", "logs:/run"):
        assert local(plain) == Path(plain)
    # An HDF5 file of this folder, and a data set in it.
    assert local("stimuli.h5:/images") == Path("stimuli.h5:/images")


def test_paths_are_distinct_names_by_as_little_as_can_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distinct_names([Path("x/a"), Path("b")]) == ["a", "b"]
    runs = [Path("0/b/run"), Path("1/b/run"), tmp_path / "1/c/run"]
    assert distinct_names(runs) == ["0/b/run", "1/b/run", "1/c/run"]
    assert distinct_names([Path()]) == [tmp_path.name]
    with pytest.raises(InputError, match="run is given twice; give it once"):
        distinct_names([Path("run"), Path("a"), tmp_path / "run"])


def test_every_path_of_a_command(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = Parser("predict")
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("images", nargs="*", type=path_text)
    given = parser.parse_args(["--workdir=~/run", "~/*.jpg", "b.jpg"])
    assert given.workdir == tmp_path / "run"
    assert given.images == [f"{tmp_path}/*.jpg", "b.jpg"]
    for wrong in (["--workdir=s3://b/run"], ["http://host/cat.jpg"]):
        with pytest.raises(InputError, match="is an address, .*; see `python -m"):
            parser.parse_args(wrong)
