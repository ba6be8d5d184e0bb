"""The log of JAX's C++, which is set before JAX is imported: this imports nothing."""

import os


def silence() -> None:
    """Have it say errors alone, where the user has set nothing else."""
    # With a compilation cache not even these: on a CPU it logs two for every program.
    level = "3" if os.environ.get("JAX_COMPILATION_CACHE_DIR") else "2"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", level)
