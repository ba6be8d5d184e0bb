"""Units of a layer as users name them."""

import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from alexnet_jax.runtime.errors import InputError


def chosen_units(text: str | None, width: int) -> Int[np.ndarray, " units"]:
    """The units that `0,7,32-63` names, in this order; all where that is None.

    Raises:
      InputError: if it names no unit of a layer so wide.
    """
    if text is None:
        return np.arange(width)
    numbers = [*_numbers(text, width)]
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--units={text} names a unit twice")
    return np.asarray(numbers)


def _numbers(text: str, width: int) -> Iterator[int]:
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < width:
            raise InputError(
                f"--units={text} must name units from 0 to {width - 1}, as 0,7,32-63"
            )
        yield from range(first, last + 1)
