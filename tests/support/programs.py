"""Steps compiled for devices that are not there, which several tests share."""

import functools
from typing import Any

from alexnet_jax.runs.config_file import load_config
from alexnet_jax.runs.network import Network, plan_network
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.targets.catalogue import TARGETS
from alexnet_jax.targets.compiling import (
    Compiled,
    compile_evaluation,
    compile_training,
)
from alexnet_jax.targets.plugins import check_plugin, open_target
from alexnet_jax.targets.program import Computation, Instruction, Program


REDUCING = ("reduce", "reduce-window", "scatter", "select-and-scatter")


def plugin_is_missing(target: str) -> bool:
    try:
        check_plugin(TARGETS[target])
    except InputError:
        return True
    return False


@functools.cache
def compiled(
    target: str,
    preset: str,
    dtype: str,
    towers: int,
    training: bool,
    batch_size: int | None = None,
    **changes: Any,
) -> tuple[Network, Compiled]:
    config = load_config("imagenet", preset)
    config.model.dtype = dtype
    config.model.update(changes)
    if batch_size is not None:
        config.train.batch_size = batch_size
    network = plan_network(config)
    mesh = open_target(TARGETS[target], 1, towers)
    made = (compile_training if training else compile_evaluation)(network, mesh)
    return network, made


def narrow_sums(program: Program) -> list[str]:
    """The sums of a program that add in half precision, exchanges aside."""
    return [
        which.text
        for computation in program.computations.values()
        for which in computation.values()
        if which.operation in REDUCING
        and any(array.kind in ("bf16", "f16") for array in which.arrays)
        and _adds(program, which)
        and _adds_several(computation, which)
    ]


def _adds(program: Program, which: Instruction) -> bool:
    return any(
        step.operation == "add"
        for name in which.called
        for step in program.computations[name].values()
    )


def _adds_several(computation: Computation, which: Instruction) -> bool:
    """Whether more than one value is added: on a TPU, XLA takes away an axis of one
    value by such a sum."""
    given = computation[which.operands[0]].arrays[0]
    return which.operation != "reduce" or given.bytes > which.arrays[0].bytes
