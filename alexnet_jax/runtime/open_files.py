"""How many files this process may have open."""

import os
import resource


# Where the system doesn't say how many.
UNKNOWN = 256


def count() -> int:
    """How many files this process has open."""
    try:
        return len(os.listdir("/dev/fd"))
    except FileNotFoundError:
        return UNKNOWN


def allow(needed: int) -> int:
    """Let this process open so many files, as far as the system allows it.

    Returns:
      How many it may open now.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return needed
    possible = needed if most == resource.RLIM_INFINITY else min(needed, most)
    if possible > allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, most))
    return max(possible, allowed)
