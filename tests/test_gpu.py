"""On a GPU, where one is at hand: every layer computes as it should in bfloat16."""

import os
import shutil
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no GPU here")
def test_every_layer_computes_in_bfloat16_as_in_float32():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    command = [sys.executable, "-m", "alexnet_jax.verify", "--device"]
    done = subprocess.run(
        [*command, "--config=imagenet", "--config.model.dtype=bfloat16"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert '"platform": "gpu"' in done.stdout
