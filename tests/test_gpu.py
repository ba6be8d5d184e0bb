"""On a GPU, where one is at hand: every layer compiles both ways in bfloat16."""

import os
import shutil
import subprocess
import sys

import pytest


PROGRAM = """
import jax, numpy as np
from alexnet_jax import mesh as meshes, optimizer, step
from alexnet_jax.model import AlexNet
from alexnet_jax.schedule import make_schedule

mesh = meshes.open_mesh(towers=2, data=1, tower=1, platform="cuda")
model = AlexNet(num_classes=10, dtype="bfloat16")
schedule = make_schedule(steps_per_epoch=10)
sgd = optimizer.momentum_sgd(schedule)
state = step.init_state(model, sgd, mesh, 224, 0)
before = jax.device_get(state.params)
train = step.make_train_step(model, sgd, schedule, mesh, 0)
place = jax.sharding.NamedSharding(mesh, meshes.EXAMPLES)
rng = np.random.default_rng(0)
batch = jax.device_put(
    {
        "image": rng.integers(0, 256, (8, 224, 224, 3), np.uint8),
        "label": np.arange(8, dtype=np.int32),
        "colour_shift": np.zeros((8, 3), np.float32),
    },
    place,
)
mean = jax.device_put(np.full((224, 224, 3), 120, np.float32), step.replicated(mesh))
state, metrics = train(state, batch, mean)
assert np.isfinite(float(metrics["loss"])), metrics
for name, layer in jax.device_get(state.params).items():
    moved = layer["kernel"] != before[name]["kernel"]
    assert np.isfinite(layer["kernel"]).all() and moved.any(axis=(1, 2)).all(), name
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no GPU here")
def test_every_layer_compiles_and_learns_in_bfloat16():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
