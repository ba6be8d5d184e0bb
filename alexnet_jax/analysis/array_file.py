"""Arrays by name, in an NPZ file that is written whole or not at all."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.atomic import writing


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays so that `numpy.load` gives them by name."""
    content = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez(content, **named)
    with writing(path):
        atomic.replace(path, content.getvalue())
