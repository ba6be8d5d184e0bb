"""Golden numbers: what a program computes, and the program itself, as text in a file.

    python tests/support/golden.py

writes `tests/golden.json` anew: to be done where a change of the programs or of their
numbers is meant, so that a review sees it.
"""

import os


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"], os.environ["JAX_NUM_CPU_DEVICES"] = "cpu", "2"

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from alexnet_jax import load_config, train
from alexnet_jax.runs import network as networks
from alexnet_jax.runs.metrics_file import METRICS_FILE
from alexnet_jax.runs.provenance import device_versions, environment
from alexnet_jax.training.step import make_eval_step, make_train_step

from networks import TINY, mesh_of


FILE = Path(__file__).parents[1] / "golden.json"
STEPS = 20
# Those that decide what the programs are, and with the processor what they compute.
PACKAGES = ("flax", "jax", "jaxlib", "optax")
PROGRAMS = ("quickstart", "imagenet", "imagenet:paper", "imagenet:owt")
RUNS = ("quickstart", "imagenet")


def conditions() -> dict[str, Any]:
    """What golden numbers hold for."""
    versions: Any = environment()["versions"]
    return {
        "versions": {name: versions[name] for name in PACKAGES},
        "processor": processor(),
    }


def processor() -> str:
    """The processor's name with its family and model, since names are shared."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = [line.partition(":") for line in reversed(lines)]
    numbers = {key.strip(): value.strip() for key, _, value in fields}
    which = [
        f"{key} {numbers[key]}" for key in ("cpu family", "model") if key in numbers
    ]
    return ", ".join([str(device_versions()["device"]), *which])


def programs(name: str) -> dict[str, str]:
    """The SHA-256 of the StableHLO of a config's training and evaluation steps, of the
    size that it has, a tower a device."""
    config, _, variant = name.partition(":")
    network = networks.plan_network(load_config(config, variant or None))
    model = network.model
    mesh = mesh_of(1, model.towers, towers=model.towers)
    step: Any = make_train_step(
        model, network.optimizer, network.schedule, mesh, network.seed
    )
    evaluate: Any = make_eval_step(model, mesh, crop=network.crop, views=network.views)
    lowered = {
        f"{name} train": step.lower(*networks.train_arguments(network, mesh)),
        f"{name} eval": evaluate.lower(*networks.evaluation_arguments(network, mesh)),
    }
    return {
        key: hashlib.sha256(program.as_text().encode()).hexdigest()
        for key, program in lowered.items()
    }


def small_config(name: str, folder: Path) -> ConfigDict:
    """A config of a run of 20 steps: the quickstart's, or ImageNet's of few images and
    a narrow network, at its own size."""
    config = load_config(name)
    config.train.update({"steps": STEPS, "validate_steps": STEPS})
    if name == "imagenet":
        write_images(folder / "images")
        config.data.update({"source": "folder", "path": str(folder / "images")})
        config.data.workers = 0
        config.model.layers.update(TINY)
        config.train.batch_size = config.eval.batch_size = 8
    return config


def write_images(folder: Path) -> None:
    """Two classes of coarse noise, stored without loss at the size that is read."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label in range(2):
            for number in range(count):
                coarse = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                image = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
                path = folder / split / f"class{label}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)


def losses(name: str, folder: Path) -> list[float]:
    """The training losses of a run's first 20 steps, as `metrics.jsonl` has them."""
    train.run(small_config(name, folder), folder / name)
    lines = map(json.loads, (folder / name / METRICS_FILE).read_text().splitlines())
    return [line["loss"] for line in lines if line["split"] == "train"]


def read() -> dict[str, Any]:
    """What the file says."""
    return json.loads(FILE.read_text())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = {
            **conditions(),
            "programs": {k: v for name in PROGRAMS for k, v in programs(name).items()},
            "losses": {name: losses(name, Path(folder)) for name in RUNS},
        }
    FILE.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
