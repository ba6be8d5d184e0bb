"""On a GPU, where one is at hand: every layer computes as it should in bfloat16."""

import importlib.util
import shutil
import subprocess
import sys

import pytest

import users


PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("nvidia-smi") is None
    or not any(map(importlib.util.find_spec, PLUGINS)),
    reason="no GPU here, or JAX is installed without",
)
def test_every_layer_computes_in_bfloat16_as_in_float32():
    command = [sys.executable, "-m", "alexnet_jax.verify", "--device"]
    done = subprocess.run(
        [*command, "--config=imagenet", "--config.model.dtype=bfloat16"],
        env=users.environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert '"platform": "gpu"' in done.stdout
