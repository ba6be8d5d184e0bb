"""A config's own training and evaluation step, compiled for a GPU that is not there."""

import dataclasses
import importlib.metadata
import shutil
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from alexnet_jax.distributed.mesh import DATA, TOWER, check_batch
from alexnet_jax.runs.network import (
    Network,
    evaluation_arguments,
    train_arguments,
)
from alexnet_jax.runtime.errors import Failure, InputError, first_line
from alexnet_jax.targets.arithmetic import products
from alexnet_jax.targets.cards import Card
from alexnet_jax.targets.program import Program, read_program
from alexnet_jax.targets.traffic import traffic
from alexnet_jax.training.step import make_eval_step, make_train_step


PLATFORM, PLUGIN, TOOLS = "cuda", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12"
# What JAX takes of a GPU's memory by default (XLA_PYTHON_CLIENT_MEM_FRACTION).
SHARE_OF_MEMORY = 0.75
COLLECTIVES = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
FULL = "RESOURCE_EXHAUSTED"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """An exchange between devices.

    Attributes:
      kind: such as `all-gather`.
      layer: which it serves; None for what serves all, as sums of gradients.
      bytes: of the whole array, on one device.
    """

    kind: str
    layer: str | None
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Compiled:
    """A step that was compiled for a mesh of one kind of card.

    Attributes:
      images: that one run of it computes, on all devices.
      devices: of the mesh.
      text: of the program before the compiler (StableHLO), and after (HLO).
      program: the latter, parsed.
      memory: bytes of a device by kind.
      operations: of a device in one run, in products, two for each multiply-add.
    """

    images: int
    devices: int
    lowered: str
    text: str
    program: Program
    memory: dict[str, int]
    operations: int

    def collectives(self) -> list[Collective]:
        """The exchanges between devices, in the order of the program."""
        found = []
        for instruction in self.program.instructions():
            kind = instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                sizes = [shape.bytes for shape in instruction.arrays]
                found.append(
                    Collective(kind=kind, layer=instruction.layer, bytes=max(sizes))
                )
        return found

    def report(self, card: Card, dtype: str) -> dict[str, object]:
        """What the step needs and what limits it, in a command's words."""
        moved = traffic(self.program)
        seconds = max(moved / card.bandwidth, self.operations / getattr(card, dtype))
        each = self.devices / self.images
        return {
            "memory_gb": {k: round(v / 1e9, 3) for k, v in self.memory.items()},
            "traffic_mb_per_image": round(moved * each / 1e6, 2),
            "gflop_per_image": round(self.operations * each / 1e9, 3),
            # XLA estimates cycles for TPUs alone.
            "estimated_cycles": None,
            "estimated_images_per_second": round(self.images / seconds),
            "collectives": [dataclasses.asdict(c) for c in self.collectives()],
        }


def fits(memory: dict[str, int], card: Card) -> bool:
    """Whether a step fits in what JAX takes of a card's memory by default."""
    return memory["total"] <= SHARE_OF_MEMORY * card.memory


def check_plugin() -> None:
    """Raise an InputError if what compiles for CUDA is not installed."""
    versions = {}
    for package in ("jaxlib", PLUGIN, TOOLS):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    jaxlib, plugin = versions["jaxlib"], versions[PLUGIN]
    assembler = versions[TOOLS] is not None or shutil.which("ptxas") is not None
    if plugin == jaxlib and assembler:
        return
    what = (
        f"{PLUGIN} is not installed"
        if plugin is None
        else f"{PLUGIN} is {plugin}, and jaxlib {jaxlib}"
        if plugin != jaxlib
        else "there is no ptxas"
    )
    raise InputError(
        f"compiling for CUDA needs JAX's plugin of jaxlib's version, and {what}; in an "
        f'environment of its own: `pip install "{PLUGIN}=={jaxlib}" {TOOLS}`'
    )


def open_target(card: Card, data: int, tower: int) -> Mesh:
    """A mesh of cards that are not there.

    Raises:
      InputError: if the plugin is missing.
    """
    check_plugin()
    count = data * tower
    topology = f"1x1x{count}"
    try:
        described = topologies.get_topology_desc(
            topology, PLATFORM, target_config=card.described(), topology=topology
        )
    except Exception as error:
        # The plugin raises what it likes.
        raise InputError(
            f"JAX can't describe {count} x {card.name} ({first_line(error)[:200]})"
        ) from error
    devices = np.array(described.devices[:count]).reshape(data, tower)
    return Mesh(devices, (DATA, TOWER), axis_types=(AxisType.Explicit,) * 2)


def compile_training(network: Network, mesh: Mesh) -> Compiled:
    """The training step.

    Raises:
      InputError: if the batch does not divide over the devices.
      Failure: if the compiler gives up, as where one array alone fills the memory.
    """
    check_batch(network.batch_size, mesh.shape[DATA], "--batch_size")
    step = make_train_step(
        network.model,
        network.optimizer,
        network.schedule,
        mesh,
        network.seed,
        label_smoothing=network.label_smoothing,
    )
    arguments = train_arguments(network, mesh)
    return _compiled(step, arguments, network.batch_size, mesh)


def compile_evaluation(network: Network, mesh: Mesh) -> Compiled:
    """The evaluation step; see `compile_training`."""
    check_batch(network.evaluation_batch, mesh.shape[DATA], "eval.batch_size")
    step = make_eval_step(network.model, mesh, crop=network.crop, views=network.views)
    arguments = evaluation_arguments(network, mesh)
    return _compiled(step, arguments, network.evaluation_batch, mesh)


def _compiled(
    step: Any, arguments: tuple[Any, ...], images: int, mesh: Mesh
) -> Compiled:
    lowered = step.trace(*arguments).lower(lowering_platforms=(PLATFORM,))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        reason = first_line(error)[:200]
        raise Failure(f"XLA can't compile it: {reason}") from error
    sizes = compiled.memory_analysis()
    arguments_, outputs = sizes.argument_size_in_bytes, sizes.output_size_in_bytes
    # The new state takes the place of the old one.
    outputs -= sizes.alias_size_in_bytes
    temporary = sizes.temp_size_in_bytes
    memory = {"arguments": arguments_, "outputs": outputs, "temporary": temporary}
    text, stable = compiled.as_text(), lowered.as_text()
    return Compiled(
        images=images,
        devices=mesh.devices.size,
        lowered=stable,
        text=text,
        program=read_program(text),
        memory={**memory, "total": sum(memory.values())},
        operations=sum(products(stable)),
    )
