"""Options of XLA for the programs of a run, given to each when it is compiled.

Not by XLA_FLAGS: those are read once, when JAX opens its devices, and one that XLA does
not know ends the process.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import first_line


# Options by name, as `jax.jit(..., compiler_options=...)` takes them.
CompilerOptions = Mapping[str, bool | str]
LEAST_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def known(options: CompilerOptions) -> dict[str, bool | str]:
    """Those of some options that this XLA knows; a line names each other one."""
    found = {}
    for name, value in options.items():
        # Of its kind and without effect, so that nothing is written or changed here.
        error = _refusal({name: type(value)()})
        if error is None:
            found[name] = value
        else:
            progress.say(
                f"warning: this XLA does not know {name} ({first_line(error)[:160]}); "
                "the steps are compiled without it"
            )
    return found


def of_program(mesh: Mesh, options: CompilerOptions | None = None) -> CompilerOptions:
    """The options of a program that runs on a mesh: those given, and on a CPU the order
    of operations that needs least memory, where this XLA knows it.

    XLA's own order lets most run at once. On a CPU that is no faster, since each takes
    all cores, and the system must clear more memory in every step
    (`experiments/benchmarks/train_step`). The numbers are the same.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    order = LEAST_MEMORY if on_cpu and _has_order() else {}
    return {**order, **(options or {})}


@functools.cache
def _has_order() -> bool:
    """Whether this XLA takes `LEAST_MEMORY`."""
    return _refusal(LEAST_MEMORY) is None


def _refusal(options: CompilerOptions) -> Exception | None:
    """What XLA says of options that it does not take."""
    try:
        program = jax.jit(lambda: jnp.zeros(()), compiler_options=dict(options))
        program.lower().compile()
    except Exception as error:
        # Of XLA's own kinds, which differ from version to version.
        return error
    return None
