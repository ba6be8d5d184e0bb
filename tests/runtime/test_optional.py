"""Packages that not every user has."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from alexnet_jax.runtime import optional
from alexnet_jax.runtime.errors import InputError


ROOT = Path(__file__).parents[2]


def test_every_optional_package_is_in_its_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package, extra in optional.EXTRAS.items():
        wanted = project["optional-dependencies"][extra]
        names = [line.partition(">")[0].lower().replace("-", "_") for line in wanted]
        assert package.lower() in names


def test_a_missing_package_is_installed_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    monkeypatch.chdir(ROOT)
    command = r"out.zarr needs the package zarr; `pip install -e \"\.\[features\]\"`"
    with pytest.raises(InputError, match=command):
        optional.require("zarr", "out.zarr")
    monkeypatch.chdir(ROOT / "tests")
    assert optional.install("onnx") == f'pip install -e "{ROOT}[weights]"'
    assert optional.install("nothing") == "pip install nothing"


def test_outside_a_checkout_packages_are_named(tmp_path):
    package = ROOT / "alexnet_jax"
    for part in ("__init__.py", "runtime"):
        target = tmp_path / "alexnet_jax" / part
        copy = shutil.copytree if (package / part).is_dir() else shutil.copy
        target.parent.mkdir(exist_ok=True)
        copy(package / part, target)
    program = (
        "from alexnet_jax.runtime import optional; print(optional.install('onnx')); "
        "print(optional.install_extra('cuda12'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        done.stdout
        == 'pip install onnx pooch requests safetensors\npip install "jax[cuda12]"\n'
    )
