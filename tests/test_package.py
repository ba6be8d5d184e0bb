"""The built wheel, installed and used in an empty directory."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import users
from networks import ROWS


ROOT = Path(__file__).parents[1]


@pytest.mark.extended
def test_the_wheel_runs_three_steps_of_the_quickstart(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q"]
    subprocess.run([*build, "-w", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
        (scripts,) = (name for name in names if name.endswith("/entry_points.txt"))
        assert (
            "alexnet = alexnet_jax.__main__:command" in archive.read(scripts).decode()
        )
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        assert "Project-URL: Paper, https://" in archive.read(metadata).decode()
    assert "alexnet_jax/configs/quickstart.py" in names
    assert "alexnet_jax/py.typed" in names
    assert "alexnet_jax/data/sources/imagenet_classes.txt" in names
    assert not any(name.startswith(("tests/", "configs/")) for name in names)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "alexnet_jax.main", "--config=quickstart"),
            *("--workdir=run", "--config.train.steps=3", *ROWS),
        ],
        cwd=empty,
        env=users.environment(JAX_PLATFORMS="cpu", PYTHONPATH=str(site)),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["step"] == 3
    where = "import alexnet_jax; print(alexnet_jax.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=empty,
        env=users.environment(JAX_PLATFORMS="cpu", PYTHONPATH=str(site)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(site))
