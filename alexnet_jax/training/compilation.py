"""Options of XLA for the programs of a run, given to each when it is compiled.

Not by XLA_FLAGS: those are read once, when JAX opens its devices, and one that XLA does
not know ends the process.
"""

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


def least_memory(mesh: Mesh) -> CompilerOptions:
    """What makes XLA order a program's operations so that it needs least memory, and
    not so that most can run at once; none where this XLA or the platform has no
    choice. The numbers are the same."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return LEAST_MEMORY if on_cpu and _refusal(LEAST_MEMORY) is None else {}


def _refusal(options: CompilerOptions) -> Exception | None:
    """What XLA says of options that it does not take."""
    try:
        program = jax.jit(lambda: jnp.zeros(()), compiler_options=dict(options))
        program.lower().compile()
    except Exception as error:
        # Of XLA's own kinds, which differ from version to version.
        return error
    return None
