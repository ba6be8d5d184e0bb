"""What importing the package does and does not do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_no_jax_grain_or_orbax():
    run(
        "import alexnet_jax, sys; alexnet_jax.presets; alexnet_jax.InputError; "
        "loaded = {'jax', 'flax', 'grain', 'orbax', 'ml_collections', 'numpy'}; "
        "assert not loaded & set(sys.modules), loaded & set(sys.modules)"
    )


def test_files_of_the_current_folder_take_no_librarys_place(tmp_path):
    for name in ("msgpack", "resource", "joblib", "folder", "config"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_jax.verify", "--path=nothing"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.stderr.startswith("error: nothing holds no prepared data set")


def test_the_public_names_are_there_and_no_others():
    run(
        "import alexnet_jax as a\n"
        "assert all(getattr(a, name) is not None for name in a.__all__)\n"
        "assert set(a.__all__) <= set(dir(a))\n"
        "assert not hasattr(a, 'nothing')\n"
        "model = a.AlexNet.from_preset('caffe', num_classes=10)\n"
        "assert (model.num_classes, model.norm_k) == (10, 1.0)\n"
        "import alexnet_jax.train\n"
        "assert callable(alexnet_jax.train.run)"
    )


def test_the_network_needs_no_pallas():
    """Its lowering to Triton is to go; without it XLA runs, and a line says why."""
    run(
        "import sys\n"
        "from alexnet_jax import AlexNet\n"
        "from alexnet_jax.nn.fused import support\n"
        "assert 'jax.experimental.pallas' not in sys.modules\n"
        "gpu = support.Device('gpu', 'H100', 9.0)\n"
        "fused = AlexNet(10, implementation='fused', dtype='bfloat16')\n"
        "assert support.decide(fused, gpu).runs == 'fused'\n"
        "sys.modules['jax.experimental.pallas.triton'] = None\n"
        "assert support.decide(fused, gpu).runs == 'xla'\n"
        "assert 'Triton' in support.explanation(fused, gpu)\n"
    )


@pytest.mark.parametrize(
    "module", ["alexnet_jax.nn.alexnet", "alexnet_jax.training.step"]
)
def test_the_core_needs_neither_grain_nor_orbax_nor_ml_collections(module):
    run(
        f"import {module}, sys; "
        "loaded = {'grain', 'orbax', 'ml_collections', 'sklearn'} & set(sys.modules); "
        "assert not loaded, loaded"
    )


def test_importing_every_command_asks_for_no_device():
    run(
        "import importlib\n"
        "from alexnet_jax import __main__\n"
        "for module, _ in __main__.COMMANDS.values():\n"
        "    importlib.import_module(f'alexnet_jax.{module}')\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
