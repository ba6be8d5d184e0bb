"""A config's own training and evaluation step, compiled for devices not there."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from alexnet_jax.data.loading.later_recipes import check_pairs
from alexnet_jax.distributed.mesh import DATA, check_batch
from alexnet_jax.runs.network import (
    Network,
    evaluation_arguments,
    train_arguments,
)
from alexnet_jax.runtime.errors import Failure, first_line
from alexnet_jax.targets.arithmetic import Product, read_products
from alexnet_jax.targets.cycles import Cycles, cycles_by_layer
from alexnet_jax.targets.program import Program, read_program
from alexnet_jax.targets.target import Target
from alexnet_jax.targets.traffic import traffic
from alexnet_jax.training.step import make_eval_step, make_train_step


COLLECTIVES = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
# What XLA raises where a program does not fit, and what a TPU's compiler says of it.
FULL = "RESOURCE_EXHAUSTED"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """An exchange between devices.

    Attributes:
      kind: such as `all-gather`.
      layer: which it serves; None for what serves all, as sums of gradients.
      bytes: of the whole array, or all that are exchanged together, on one device.
    """

    kind: str
    layer: str | None
    bytes: int


def find_collectives(program: Program) -> Iterator[Collective]:
    """The exchanges between devices, in the order of a program."""
    for computation in program.computations.values():
        for which in computation.values():
            kind = which.operation.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            parts = [computation[name].arrays for name in which.handed]
            given = [*itertools.chain.from_iterable(parts)]
            # What starts one may have its operands first, and markers behind.
            count = len(given)
            skipped = count if len(which.arrays) >= 2 * count else 0
            results = which.arrays[skipped : skipped + count]
            # A gather's result is the whole, a scatter's operand. Operands without a
            # result are places in an array.
            pairs = zip(given, results, strict=False)
            whole = sum(max(one.bytes, other.bytes) for one, other in pairs)
            yield Collective(kind=kind, layer=which.layer, bytes=whole)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Compiled:
    """A step that was compiled for a mesh of one kind of device.

    Attributes:
      images: that one run of it computes, on all devices.
      devices: of the mesh.
      lowered: the program's text before the compiler (StableHLO).
      text: after it (HLO).
      program: the latter, parsed.
      memory: bytes of a device by kind.
      products: of a device in one run.
    """

    images: int
    devices: int
    lowered: str
    text: str
    program: Program
    memory: dict[str, int]
    products: list[Product]

    @property
    def needed(self) -> int:
        """Bytes of a device."""
        return self.memory["total"]

    def fits(self, target: Target) -> bool:
        """Whether it fits in what a program can have of a target's memory."""
        return self.needed <= target.usable

    @functools.cached_property
    def collectives(self) -> list[Collective]:
        """The exchanges between devices, in the order of the program."""
        return list(find_collectives(self.program))

    @functools.cached_property
    def cycles(self) -> Cycles:
        """XLA's estimate by layer; of TPUs alone."""
        return cycles_by_layer(self.program)

    def report(self, target: Target, dtype: str) -> dict[str, object]:
        """What the step needs and what limits it, in a command's words."""
        moved = traffic(self.program)
        operations = sum(product.operations for product in self.products)
        seconds = max(moved / target.bandwidth, operations / getattr(target, dtype))
        each = self.devices / self.images
        return {
            "memory_gb": {k: round(v / 1e9, 3) for k, v in self.memory.items()},
            "traffic_mb_per_image": round(moved * each / 1e6, 2),
            "gflop_per_image": round(operations * each / 1e9, 3),
            "estimated_cycles": self.cycles.total() or None,
            "estimated_images_per_second": round(self.images / seconds),
            "collectives": [dataclasses.asdict(c) for c in self.collectives],
        }


class Overfull(Failure):
    """A step that the compiler gives up, since it needs more memory than there is.

    Attributes:
      needed: bytes of a device, None where the compiler does not say.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        found = _USED.search(message)
        self.needed = None if found is None else int(float(found[1]) * _UNITS[found[2]])

    def fits(self, target: Target) -> bool:
        """Never, whatever the target."""
        return False

    def report(self, target: Target, dtype: str) -> dict[str, object]:
        """The keys of a compiled step's report, where there is little to say."""
        total = None if self.needed is None else round(self.needed / 1e9, 3)
        return {
            "memory_gb": {
                **dict.fromkeys(("arguments", "outputs", "temporary")),
                "total": total,
            },
            "traffic_mb_per_image": None,
            "gflop_per_image": None,
            "estimated_cycles": None,
            "estimated_images_per_second": None,
            "collectives": [],
        }


def check_training_batch(network: Network, parts: int) -> None:
    """Raise an InputError if a network's training batch can't be split so."""
    check_batch(network.batch_size, parts, "--batch_size")
    if "weight" in network.recipes:
        check_pairs(network.batch_size, parts, "--batch_size")


def compile_training(network: Network, mesh: Mesh) -> Compiled:
    """The training step.

    Raises:
      InputError: if the batch does not divide over the devices.
      Overfull: if the compiler gives up, since it needs more memory than there is.
      Failure: if XLA can't compile it for another reason.
    """
    check_training_batch(network, mesh.shape[DATA])
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
    platform = _platform(mesh)
    lowered = step.trace(*arguments).lower(lowering_platforms=(platform,))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if FULL in str(error):
            raise Overfull(str(error)) from error
        reason = first_line(error)[:200]
        raise Failure(f"XLA can't compile it: {reason}") from error
    sizes = compiled.memory_analysis()
    # The new state takes the place of the old one.
    memory = {
        "arguments": sizes.argument_size_in_bytes,
        "outputs": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "temporary": sizes.temp_size_in_bytes,
    }
    text = compiled.as_text()
    return Compiled(
        images=images,
        devices=mesh.devices.size,
        lowered=lowered.as_text(),
        text=text,
        program=read_program(text),
        memory={**memory, "total": sum(memory.values())},
        products=list(read_products(lowered.as_text(debug_info=True))),
    )


def _platform(mesh: Mesh) -> str:
    """The platform that a program for a mesh is lowered for."""
    platform = mesh.devices.flat[0].platform
    return "cuda" if platform == "gpu" else platform
