"""Options of XLA for the programs of a run, given to each when it is compiled.

Not by XLA_FLAGS: those are read once, when JAX opens its devices, and one that XLA does
not know ends the process.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import first_line


# Options by name, as `jax.jit(..., compiler_options=...)` takes them.
CompilerOptions = Mapping[str, bool | str]


def known(options: CompilerOptions) -> dict[str, bool | str]:
    """Those of some options that this XLA knows; a line names each other one."""
    found = {}
    for name, value in options.items():
        # Of its kind and without effect, so that nothing is written or changed here.
        probe = {name: type(value)()}
        try:
            jax.jit(lambda: jnp.zeros(()), compiler_options=probe).lower().compile()
        except Exception as error:
            # XLA raises its own kinds, which differ from version to version.
            progress.say(
                f"warning: this XLA does not know {name} ({first_line(error)[:160]}); "
                "the steps are compiled without it"
            )
        else:
            found[name] = value
    return found
