"""Paths that users give."""

from pathlib import Path

import pytest

from alexnet_jax.runtime.cli import Parser, path_text
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.paths import local


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
    assert local("~/run") == tmp_path / "run"
    for plain in ("run", "a:b/run", "imagenette/full-size-v2", "./s3:/x", "logs:/run"):
        assert local(plain) == Path(plain)


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
