"""Small training runs in this process and in others."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from alexnet_jax import train
from alexnet_jax.checkpoint.reader import CheckpointReader
from alexnet_jax.main import parse
from alexnet_jax.runs import metrics_file

from networks import TINY, flat


CONFIG = """
import quickstart

def get_config():
    config = quickstart.get_config()
    config.model.layers.update({layers})
    config.data.update({{"validation_fraction": 0.95, "threads": 2, "workers": 0}})
    config.train.update({{"batch_size": 8, "steps": 20, "validate_steps": 8,
                         "save_steps": 10}})
    config.eval.batch_size = 600
    return config
"""


# A program that starts another which can't write files of more bytes.
LIMITED = """
import os, resource, sys
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
os.execv(sys.argv[2], sys.argv[2:])
"""


def write_config(folder: Path) -> Path:
    """A config of a tiny two-tower network on some of the digits."""
    path = folder / "tiny_config.py"
    path.write_text(CONFIG.format(layers=repr(TINY)))
    return path


def arguments(folder: Path, name: str, *overrides: str) -> list[str]:
    path = write_config(folder)
    return [f"--config={path}", f"--workdir={folder / name}", *overrides]


def run(folder: Path, name: str, *overrides: str) -> Path:
    config, workdir = parse(arguments(folder, name, *overrides))
    train.run(config, workdir)
    return workdir


def start(
    folder: Path,
    name: str,
    *overrides: str,
    devices: int | None = None,
    file_bytes: int | None = None,
    program: Sequence[str] = ("-m", "alexnet_jax.main"),
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """A run in its own process, on so many virtual devices, that can't write files
    of more bytes; by another program than the command, in an environment other than
    this process's."""

    count = {} if devices is None else {"JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        [
            *([] if file_bytes is None else [sys.executable, "-c", LIMITED]),
            *([] if file_bytes is None else [str(file_bytes)]),
            *(sys.executable, *program),
            *arguments(folder, name, *overrides),
        ],
        cwd=Path(__file__).parents[2],
        env={**(environment or os.environ), **count},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def lines(workdir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the fields that read a clock."""
    kept = []
    for text in (workdir / metrics_file.METRICS_FILE).read_text().splitlines():
        line = json.loads(text)
        kept.append(
            {k: v for k, v in line.items() if k not in metrics_file.CLOCK_FIELDS}
        )
    return kept


def final_state(workdir: Path, step: int = 20) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, as it lies on disk."""
    from orbax.checkpoint import v1 as ocp

    path = (workdir / "checkpoints" / str(step)).absolute()
    with warnings.catch_warnings():
        # Where nothing says how to lay the arrays out, the saved layout is taken.
        warnings.filterwarnings("ignore", "Sharding info not provided")
        return flat(ocp.load(str(path), checkpointable_name="state"))


def final_digests(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """The SHA-256 of every array of a checkpoint, which any process can read."""
    from orbax.checkpoint import v1 as ocp

    path = (workdir / "checkpoints" / str(step)).absolute()
    return ocp.load(str(path), checkpointable_name="digests")


@jax.jit
def slow(start: Array) -> Array:
    """A number that a device takes some tenths of a second to compute."""
    table = jnp.full((400, 400), 1 / 400, jnp.float32) + 0 * start
    return lax.fori_loop(0, 60, lambda _, x: x @ table, table)[0, 0]


def checkpoint_steps(workdir: Path) -> dict[int, float | None]:
    return CheckpointReader(workdir / "checkpoints").steps
