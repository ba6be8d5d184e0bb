"""Files that are there whole or not at all, and packages that may not be there."""

import importlib
import json
from pathlib import Path
from typing import Any

from alexnet_jax.runtime.errors import InputError


PART = ".part"


def replace(path: Path, data: str | bytes) -> None:
    """Write a file so that a crash leaves the old one or the new."""
    part = path.with_name(path.name + PART)
    part.write_bytes(data.encode() if isinstance(data, str) else data)
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a file of JSON, whole or not at all."""
    replace(path, json.dumps(value, indent=2) + "\n")


def package(name: str, what: object) -> Any:
    """A package that is installed only by those who need it, and they for `what`.

    Raises:
      InputError: if it isn't.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        stem = name.partition(".")[0]
        raise InputError(
            f"{what} needs the package {stem}; `pip install {stem}`"
        ) from error
