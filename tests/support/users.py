"""What a user has: an environment without what `conftest` puts into it."""

import os


# Set by the conftest, or by the libraries that it starts.
OF_TESTS = ("JAX_", "PJRT_", "PYTEST_", "TF_CPP_", "XLA_FLAGS")


def environment(**more: str) -> dict[str, str]:
    """The environment of a command that a user types."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(OF_TESTS)}
    return kept | more
