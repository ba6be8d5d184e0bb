"""What `compile` says of a config's steps on a target: to read, and as JSON."""

import dataclasses

import jax

from alexnet_jax.distributed.mesh import check_batch
from alexnet_jax.runs.network import Network
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.targets.cards import Card
from alexnet_jax.targets.compiling import (
    SHARE_OF_MEMORY,
    Compiled,
    compile_evaluation,
    compile_training,
    fits,
    open_target,
)


# Measured on one H100 in bfloat16, batch 1,024, with conv1 folded and the towers' conv1
# as one product: 42,000 images/s (`experiments/accelerator/`), of the 79,000 that this
# command estimates of the program.
REACHED = (
    "an H100 reached 0.53 of such an estimate (42,000 of 79,000 images/s: code2012, "
    "bfloat16, batch 1,024)"
)
# Tries of a batch that may fit.
TRIES = 4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Summary:
    """A config's steps, compiled for a mesh of one kind of card.

    Attributes:
      network: of the config.
      shape: of the mesh, devices along data and tower.
      training: the training step.
      evaluation: the evaluation step.
      fits: whether both fit in what JAX takes of the memory.
      largest: the largest batch found to fit, where the one asked for does not; 0 where
        none was found.
    """

    network: Network
    shape: tuple[int, int]
    training: Compiled
    evaluation: Compiled
    fits: bool
    largest: int | None = None


def compile_for(network: Network, card: Card, data: int, tower: int) -> Summary:
    """Compile both steps.

    Raises:
      InputError: if the plugin is missing, or the mesh fits neither network nor batch.
      Failure: if XLA can't compile a step.
    """
    towers = network.model.towers
    if towers % tower:
        raise InputError(
            f"--mesh={data}x{tower}: {tower} does not divide the network's {towers} "
            "towers"
        )
    check_batch(network.batch_size, data, "--batch_size")
    mesh = open_target(card, data, tower)
    training = compile_training(network, mesh)
    evaluation = compile_evaluation(network, mesh)
    fitting = fits(training.memory, card)
    return Summary(
        network=network,
        shape=(data, tower),
        training=training,
        evaluation=evaluation,
        fits=fitting and fits(evaluation.memory, card),
        largest=None if fitting else _largest(network, card, mesh, training),
    )


def _largest(
    network: Network, card: Card, mesh: jax.sharding.Mesh, first: Compiled
) -> int:
    """A batch that fits, compiled; the largest that grows in proportion would."""
    step = 8 * mesh.shape["data"]
    fixed = first.memory["total"] - first.memory["temporary"]
    each = first.memory["temporary"] / network.batch_size
    batch = int((SHARE_OF_MEMORY * card.memory - fixed) / each)
    for _ in range(TRIES):
        batch = batch // step * step
        if batch < 1:
            return 0
        smaller = dataclasses.replace(network, batch_size=batch)
        if fits(compile_training(smaller, mesh).memory, card):
            return batch
        batch = batch * 9 // 10
    return 0


def as_json(result: Summary, card: Card) -> dict[str, object]:
    """The command's result."""
    data, tower = result.shape
    dtype = result.network.model.dtype
    more = {} if result.largest is None else {"largest_batch_size": result.largest}
    return {
        "jax": jax.__version__,
        "mesh": f"{data}x{tower}",
        "batch_size": result.network.batch_size,
        "dtype": dtype,
        "classes": result.network.model.num_classes,
        "fits": result.fits,
        **more,
        "train": result.training.report(card, dtype),
        "evaluation": result.evaluation.report(card, dtype),
    }


def lines(result: Summary, card: Card) -> list[str]:
    """The same to read."""
    dtype = result.network.model.dtype
    data, tower = result.shape
    said = [
        f"{data * tower} x {card.name} (data {data} x tower {tower}), {dtype}, "
        f"{result.network.model.num_classes:,} classes; nothing was run"
    ]
    for name, step in (("train", result.training), ("evaluation", result.evaluation)):
        report = step.report(card, dtype)
        kinds = ", ".join(f"{k} {v / 1e9:.2f}" for k, v in step.memory.items())
        verdict = "fits" if fits(step.memory, card) else "does not fit"
        said += [
            f"{name}, batch {step.images}: {verdict}; GB of a device: {kinds}",
            f"  an image: {report['gflop_per_image']} GFLOP, "
            f"{report['traffic_mb_per_image']} MB to and from memory",
            f"  estimate: at most {report['estimated_images_per_second']:,} images/s",
        ]
        said += [
            f"  {c.kind} for {c.layer or 'all layers'}: {c.bytes / 1e6:.2f} MB"
            for c in step.collectives()
        ]
    peak = getattr(card, dtype)
    return [
        *said,
        f"estimates are the slower of memory ({card.bandwidth / 1e12:.2f} TB/s) and "
        f"arithmetic ({peak / 1e12:.0f} TFLOP/s), of the data sheet, without waiting "
        f"and without exchanges; {REACHED}",
        f"fits: in {SHARE_OF_MEMORY:.0%} of {card.memory / 1e9:.1f} GB, what JAX takes "
        "by default (XLA_PYTHON_CLIENT_MEM_FRACTION)",
    ]


def advice(result: Summary, card: Card) -> str:
    """What to do where a step does not fit."""
    needed = result.training.memory["total"] / 1e9
    there = SHARE_OF_MEMORY * card.memory / 1e9
    if result.largest is None:
        needed = result.evaluation.memory["total"] / 1e9
        return (
            f"the evaluation step needs {needed:.1f} GB and JAX takes {there:.1f} GB "
            f"of a {card.name}; set a lower --config.eval.batch_size"
        )
    largest = f"{result.largest} fits" if result.largest else "none was found that fits"
    return (
        f"the training step of batch {result.network.batch_size} needs {needed:.1f} GB "
        f"and JAX takes {there:.1f} GB of a {card.name}; of smaller batches {largest}"
    )
