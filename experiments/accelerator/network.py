"""Shared by the parts: the mission's network, its steps, and a batch."""

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment  # noqa: F401


# isort: split

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import placement
from alexnet_jax.nn.presets import CODE2012
from alexnet_jax.runs import overrides
from alexnet_jax.runs.network import Network, plan_network
from alexnet_jax.training import device_check
from alexnet_jax.training.compilation import CompilerOptions
from alexnet_jax.training.step import (
    TrainState,
    abstract_state,
    make_initial,
    make_train_step,
    root_key,
)

from commands import narrow


class Steps(NamedTuple):
    """A network's training step, compiled for one fixed batch of random images."""

    network: Network
    images: int
    initial: Callable[[jax.Array], TrainState]
    program: jax.stages.Compiled
    batch: dict[str, jax.Array]
    mean: jax.Array

    def start(self, seed: int) -> TrainState:
        """A state before the first step."""
        return self.initial(root_key(seed))

    def next(self, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        """The state after a step, and the step's metrics."""
        return self.program(state, self.batch, self.mean)

    def on_photographs(self) -> "Steps":
        """The same steps on pieces of photographs: where neighbouring pixels are nearly
        equal, so are the values of a pooling window."""
        images = photographs(self.images, self.network.crop)
        placed = jax.device_put(images, self.batch["image"].sharding)
        return self._replace(batch=self.batch | {"image": placed})

    @property
    def text(self) -> str:
        """The compiled program."""
        return self.program.as_text() or ""

    @property
    def temporary_bytes(self) -> int | None:
        """What the program needs beside its arguments and results, where known."""
        memory = self.program.memory_analysis()
        return None if memory is None else memory.temp_size_in_bytes

    def rates(self, state: TrainState, rounds: int, steps: int) -> list[float]:
        """Images a second in some rounds of so many steps."""
        found = []
        for _ in range(rounds):
            jax.block_until_ready(state)
            begin = time.perf_counter()
            for _ in range(steps):
                state, _ = self.next(state)
            jax.block_until_ready(state)
            seconds = time.perf_counter() - begin
            found.append(round(self.images * steps / seconds, 1))
        return found


def photographs(count: int, size: int) -> np.ndarray:
    """Square pieces of scikit-learn's two photographs, of various sizes, at one size:
    uint8, `[count, size, size, 3]`."""
    # Here: it takes longer to import than JAX, and most processes need no photographs.
    from sklearn.datasets import load_sample_images

    rng, found = np.random.default_rng(0), []
    whole = load_sample_images().images
    for number in range(count):
        image = whole[number % 2]
        side = int(rng.integers(224, min(image.shape[:2]) + 1))
        row, column = (int(rng.integers(0, n - side + 1)) for n in image.shape[:2])
        piece = Image.fromarray(image[row : row + side, column : column + side])
        found.append(np.asarray(piece.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(found)


def network(
    dry: bool, dtype: str, implementation: str, preset: str = "code2012"
) -> Network:
    """A preset as the mission trains it, or a narrow one of the quickstart."""
    changes = {"dtype": dtype, "implementation": implementation}
    if dry:
        rows = narrow(CODE2012)
        changes |= {f"layers.{key}": str(value) for key, value in rows.items()}
    arguments = [f"--config.model.{key}={value}" for key, value in changes.items()]
    name = "quickstart" if dry else f"imagenet:{preset}"
    return plan_network(overrides.changed_config(name, arguments))


def steps(
    dry: bool,
    dtype: str,
    implementation: str,
    images: int,
    mesh: Mesh | None = None,
    *,
    preset: str = "code2012",
    precision: str | None = None,
    compiler_options: CompilerOptions | None = None,
) -> Steps:
    """Steps of `network` on a batch of so many images, on the first device or a mesh.

    `precision` is that of products in float32, as JAX names it.
    """
    ours = network(dry, dtype, implementation, preset)
    mesh = mesh or meshes.one_device()
    size = ours.crop
    batch = device_check.random_batch(images, size, ours.model.num_classes)
    placed = placement.to_devices(batch, mesh)
    filled = np.full((size, size, 3), 120, np.float32)
    mean = jax.device_put(filled, placement.replicated(mesh))
    step: Any = make_train_step(
        ours.model, ours.optimizer, ours.schedule, mesh, 0, compiler_options
    )
    state = abstract_state(ours.model, ours.optimizer, mesh, size)
    with jax.default_matmul_precision(precision):
        program = step.lower(state, placed, mean).compile()
    # Once for all seeds.
    initial = make_initial(ours.model, ours.optimizer, mesh, size)
    return Steps(ours, images, initial, program, placed, mean)


def fused(dry: bool) -> str:
    """What runs the fused kernels: a GPU, or NumPy where it is dry."""
    return "interpret" if dry else "fused"


def digest(state: TrainState) -> str:
    """The SHA-256 of all bytes of a state."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(state)):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()
