"""Are bfloat16's gradients as near to float32's in the program for a TPU?

    python experiments/targets/gradients.py --output=FOLDER [--quick]

The program that is lowered for a TPU and the one for a CPU are both computed on this
device, on crops of two photographs, with initial weights and without dropout.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_sample_images

from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runtime import cli, progress

import harness


SIZE, BATCH, CLASSES, SEEDS = 224, 4, 10, tuple(range(8))
# Side and number of the images.
QUICK = 67, 2


def crops(rng: np.random.Generator, size: int, batch: int) -> np.ndarray:
    """Parts of the photographs, less a mean."""
    photographs = [np.asarray(image) for image in load_sample_images().images]
    cut = []
    for number in range(batch):
        whole = photographs[number % len(photographs)]
        row, column = (rng.integers(0, side - size) for side in whole.shape[:2])
        cut.append(whole[row : row + size, column : column + size])
    return np.stack(cut).astype(np.float32) - 120


def gradients_of(model: AlexNet) -> Callable[..., Any]:
    """A function from parameters, images and labels to the loss's gradients."""

    def loss(params: Any, images: Any, labels: Any) -> Any:
        logits: Any = model.apply({"params": params}, images)
        scores = jax.nn.log_softmax(logits)
        return -jnp.mean(scores[jnp.arange(labels.size), labels])

    return jax.grad(loss)


def for_a_tpu(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """A TPU's program for arguments like these, computed here."""
    unchecked = [jax.export.DisabledSafetyCheck.platform()]
    export = jax.export.export(
        jax.jit(function), platforms=["tpu"], disabled_checks=unchecked
    )
    return jax.jit(export(*arguments).call)


def distances(found: Any, reference: Any, part: str) -> dict[str, float]:
    """Relative to the reference's norm, by layer."""
    return {
        name: float(
            jnp.linalg.norm((found[name][part] - layer[part]).ravel())
            / jnp.linalg.norm(layer[part].ravel())
        )
        for name, layer in reference.items()
    }


def main() -> None:
    parser = experiment.parser(
        __doc__, runs=False, quick="small images, to show that it works"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()
    size, batch = QUICK if arguments.quick else (SIZE, BATCH)
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    path = arguments.output / "gradients.jsonl"
    wide = AlexNet(num_classes=CLASSES)
    narrow = wide.clone(dtype="bfloat16")
    init = jax.jit(wide.init)
    programs: dict[str, list[Callable[..., Any]]] = {}
    results = experiment.kept(path)
    for seed in seeds:
        of = {"seed": seed, "size": size, "batch": batch}
        if sum(of.items() <= result.items() for result in results) >= 4:
            continue
        rng = np.random.default_rng(seed)
        images, labels = crops(rng, size, batch), rng.integers(0, CLASSES, batch)
        params = init(jax.random.key(seed), jnp.zeros((1, size, size, 3)))
        given = (params["params"], images, labels.astype(np.int32))
        # Compiled once, for all seeds.
        programs = programs or {
            "cpu": [jax.jit(gradients_of(model)) for model in (narrow, wide)],
            "tpu": [for_a_tpu(gradients_of(model), *given) for model in (narrow, wide)],
        }
        for program, computed in programs.items():
            found, reference = (gradients(*given) for gradients in computed)
            for part in ("kernel", "bias"):
                result = {
                    "program": program,
                    "seed": seed,
                    "part": part,
                    "size": size,
                    "batch": batch,
                    **distances(found, reference, part),
                    **harness.machine("jax"),
                }
                progress.say(str(result))
                results = experiment.keep(path, result, "program", "part", *of)
    progress.print_result({"experiment": "gradients", "results": len(results)})


if __name__ == "__main__":
    cli.run_command(main)
