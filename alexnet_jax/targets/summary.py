"""What `compile` says of a config's steps on a target: to read, and as JSON."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
from jax.sharding import Mesh

from alexnet_jax.runs.network import Network
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.targets.arithmetic import work_by_layer
from alexnet_jax.targets.cards import Card
from alexnet_jax.targets.chips import Chip
from alexnet_jax.targets.compiling import (
    Compiled,
    Overfull,
    check_training_batch,
    compile_evaluation,
    compile_training,
)
from alexnet_jax.targets.plugins import open_target
from alexnet_jax.training.step import abstract_state


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
    """A config's steps, compiled for a mesh of one kind of device.

    Attributes:
      network: of the config.
      target: the device.
      shape: of the mesh, devices along data and tower.
      steps: by name, as they were compiled, or why the compiler gave up.
      largest: by the same names, where one does not fit: the largest batch found to
        fit; 0 where none was found.
    """

    network: Network
    target: Card | Chip
    shape: tuple[int, int]
    steps: Mapping[str, Compiled | Overfull]
    largest: Mapping[str, int]

    @property
    def fits(self) -> bool:
        """Whether every step fits in what a program can have of the memory."""
        return not self.largest


def compile_for(
    network: Network, target: Card | Chip, data: int, tower: int
) -> Summary:
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
    check_training_batch(network, data)
    mesh = open_target(target, data, tower)

    def train(images: int) -> Compiled | Overfull:
        return _tried(
            compile_training, dataclasses.replace(network, batch_size=images), mesh
        )

    def evaluation(images: int) -> Compiled | Overfull:
        return _tried(
            compile_evaluation,
            dataclasses.replace(network, evaluation_batch=images),
            mesh,
        )

    asked = _asked(network)
    again = {"train": train, "evaluation": evaluation}
    steps = {name: again[name](images) for name, images in asked.items()}
    fixed = _bytes_of_a_state(network, mesh)
    largest = {
        name: _largest(again[name], asked[name], step, fixed, mesh, target)
        for name, step in steps.items()
        if not step.fits(target)
    }
    return Summary(
        network=network,
        target=target,
        shape=(data, tower),
        steps=steps,
        largest=largest,
    )


def _asked(network: Network) -> dict[str, int]:
    """Images of each step, by its name."""
    return {"train": network.batch_size, "evaluation": network.evaluation_batch}


def _tried(
    compile_step: Callable[[Network, Mesh], Compiled], network: Network, mesh: Mesh
) -> Compiled | Overfull:
    try:
        return compile_step(network, mesh)
    except Overfull as full:
        return full


def _bytes_of_a_state(network: Network, mesh: Mesh) -> int:
    """Of a device: what a training step needs whatever its batch."""
    state = abstract_state(network.model, network.optimizer, mesh, network.crop)
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array in jax.tree.leaves(state)
    )


def _largest(
    compile_batch: Callable[[int], Compiled | Overfull],
    asked: int,
    step: Compiled | Overfull,
    fixed: int,
    mesh: Mesh,
    target: Card | Chip,
) -> int:
    """A batch that fits, compiled; the largest that grows in proportion would."""
    multiple = 8 * mesh.shape["data"]
    needed = step.needed or 2 * target.usable
    each = max(needed - fixed, 1) / asked
    batch = min(int((target.usable - fixed) / each), asked * 9 // 10)
    for _ in range(TRIES):
        batch = batch // multiple * multiple
        if batch < 1:
            return 0
        if compile_batch(batch).fits(target):
            return batch
        batch = batch * 9 // 10
    return 0


def as_json(result: Summary) -> dict[str, object]:
    """The command's result."""
    data, tower = result.shape
    dtype, target = result.network.model.dtype, result.target
    more = {}
    if "train" in result.largest:
        more["largest_batch_size"] = result.largest["train"]
    if "evaluation" in result.largest:
        more["largest_evaluation_batch_size"] = result.largest["evaluation"]
    return {
        "jax": jax.__version__,
        "mesh": f"{data}x{tower}",
        "batch_size": result.network.batch_size,
        "dtype": dtype,
        "classes": result.network.model.num_classes,
        "fits": result.fits,
        **more,
        **{name: step.report(target, dtype) for name, step in result.steps.items()},
    }


def lines(result: Summary) -> list[str]:
    """The same to read, and the arithmetic by layer."""
    dtype, target = result.network.model.dtype, result.target
    data, tower = result.shape
    said = [
        f"{data * tower} x {target.name} (data {data} x tower {tower}), {dtype}, "
        f"{result.network.model.num_classes:,} classes; nothing was run"
    ]
    for name, step in result.steps.items():
        if isinstance(step, Overfull):
            images = _asked(result.network)[name]
            needs = f"; it needs {step.needed / 1e9:.1f} GB" if step.needed else ""
            said.append(f"{name}, batch {images}: does not fit{needs}")
        else:
            said += _lines_of(name, step, result)
    peak = getattr(target, dtype)
    return [
        *said,
        f"estimates are the slower of memory ({target.bandwidth / 1e12:.2f} TB/s) and "
        f"arithmetic ({peak / 1e12:.0f} TFLOP/s), of the data sheet, without waiting "
        f"and without exchanges; {REACHED}",
        f"fits: in {target.usable / 1e9:.1f} GB of {target.memory / 1e9:.1f}; "
        f"{target.because}",
    ]


def _lines_of(name: str, step: Compiled, result: Summary) -> list[str]:
    target = result.target
    report = step.report(target, result.network.model.dtype)
    kinds = ", ".join(f"{k} {v / 1e9:.2f}" for k, v in step.memory.items())
    verdict = "fits" if step.fits(target) else "does not fit"
    return [
        f"{name}, batch {step.images}: {verdict}; GB of a device: {kinds}",
        f"  an image: {report['gflop_per_image']} GFLOP, "
        f"{report['traffic_mb_per_image']} MB to and from memory",
        f"  estimate: at most {report['estimated_images_per_second']:,} images/s",
        *_arithmetic(step, target),
        *(
            f"  {c.kind} for {c.layer or 'all layers'}: {c.bytes / 1e6:.2f} MB"
            for c in step.collectives
        ),
    ]


def _arithmetic(step: Compiled, target: Card | Chip) -> list[str]:
    """A line a layer: operations, the share of the unit that their shapes can use, and
    XLA's cycles of all that the layer does."""
    work = work_by_layer(step.products, target)
    each = step.devices / step.images
    head = "  layer       GFLOP an image   of the matrix unit at most"
    said = [head + ("   million cycles, by XLA" if step.cycles else "")]
    for layer in [*work, *(n for n in step.cycles if n not in work)]:
        done = work.get(layer)
        shown = (
            f"{'':>14}   {'':>26}"
            if done is None
            else f"{done.operations * each / 1e9:14.3f}   {done.filled:26.2f}"
        )
        cycles = f"   {step.cycles[layer] / 1e6:22.2f}" if step.cycles else ""
        said.append(f"  {layer or 'all':<11} {shown}{cycles}")
    return said


def advice(result: Summary) -> str:
    """What to do where a step does not fit."""
    target = result.target
    there = f"a program can have {target.usable / 1e9:.1f} GB ({target.name})"
    said = []
    for name, largest in result.largest.items():
        needed = result.steps[name].needed
        asks = f"needs {needed / 1e9:.1f} GB" if needed else "does not fit"
        found = f"{largest} fits" if largest else "none was found that fits"
        what, key = ("training", "train") if name == "train" else (name, "eval")
        batch = _asked(result.network)[name]
        said.append(
            f"the {what} step of batch {batch} {asks}, and {there}; of smaller batches "
            f"(--config.{key}.batch_size) {found}"
        )
    return "; ".join(said)
