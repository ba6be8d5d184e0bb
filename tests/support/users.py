"""What a user has: an environment without what `conftest` puts into it."""

import os


# Set by the conftest, or by the libraries that it starts.
OF_TESTS = ("JAX_", "PJRT_", "PYTEST_", "TF_CPP_", "XLA_FLAGS")
CACHE = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_")


def environment(*, compiled: bool = False, **more: str) -> dict[str, str]:
    """The environment of a command that a user types; with `compiled`, of one who
    keeps compiled programs, which are then those of all tests."""

    def kept(name: str) -> bool:
        of_tests = name.startswith(OF_TESTS)
        return not of_tests or (compiled and name.startswith(CACHE))

    return {k: v for k, v in os.environ.items() if kept(k)} | more
