"""Packages that not every user needs: imported when used, named when missing."""

import importlib
import importlib.util
from typing import Any

from alexnet_jax.runtime.errors import InputError


def is_installed(name: str) -> bool:
    """Whether a top-level package is installed; it is not imported."""
    return importlib.util.find_spec(name) is not None


def require(name: str, purpose: object, install: str = "") -> Any:
    """Import a module of an optional package.

    Raises:
      InputError: if it is not installed: `purpose` needs it, and pip installs
        `install`, if not just the package.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise InputError(
            f"{purpose} needs the package {package}; `pip install {install or package}`"
        ) from error
