"""What processes that train as one must agree on: what they were given, and what next.

Alone, a process agrees with itself, and nothing is exchanged.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.distributed.multihost import is_main, part
from alexnet_jax.runtime.errors import InputError


def all_of(well: bool) -> bool:
    """Whether it is true in every process."""
    if jax.process_count() == 1:
        return well
    return bool(multihost_utils.process_allgather(np.int32(well)).all())


def in_main(action: Callable[[], object]) -> None:
    """Do something in the main process, and see in all of them that it went well.

    Raises:
      InputError: in every process, if the main one raised it.
    """
    refused = None
    if is_main():
        try:
            action()
        except InputError as error:
            refused = error
    if jax.process_count() > 1:
        number = np.int32(refused is not None)
        if multihost_utils.broadcast_one_to_all(number):
            part()
            refused = refused or InputError("process 0 has refused to start")
    if refused is not None:
        raise refused


def check_same(settings: Mapping[str, Any]) -> None:
    """See that every process has been given the same.

    Args:
      settings: flat, by dotted key.

    Raises:
      InputError: in every process, naming the keys at which one differs from the main
        process.
    """
    if jax.process_count() == 1:
        return
    # Fixed sizes, so that processes that differ still meet in the same exchange.
    mine = {key: _digest([key, value]) for key, value in settings.items()}
    names = _digest(sorted(mine))
    same_names = multihost_utils.process_allgather(names)
    if (same_names != same_names[0]).any():
        part()
        raise InputError(
            "the processes were given configs with different keys; give every process "
            "the same command"
        )
    table = np.stack([mine[key] for key in sorted(mine)])
    tables = multihost_utils.process_allgather(table)
    differing = [
        f"{key} (process {', '.join(map(str, np.flatnonzero(other)))})"
        for key, other in zip(
            sorted(mine), (tables != tables[0]).any(axis=-1).T, strict=True
        )
        if other.any()
    ]
    if differing:
        part()
        raise InputError(
            f"processes differ from process 0 in {'; '.join(differing)}; give every "
            "process the same config and the same data"
        )


def _digest(value: Any) -> np.ndarray:
    text = json.dumps(value, sort_keys=True)
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)


class Agreement:
    """A number on which all processes agree, one step late and without waiting for it.

    A signal reaches one process; all of them must stop at the same step.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._place = NamedSharding(mesh, P(mesh.axis_names))
        everywhere = NamedSharding(mesh, P())
        self._largest = jax.jit(jnp.max, out_shardings=everywhere)
        self._local = len(mesh.local_devices)
        self._pending: jax.Array | None = None

    def largest(self, number: int) -> int:
        """Hand in this step's number; returns the largest of the step before."""
        if jax.process_count() == 1:
            return number
        local = np.full(self._local, number, np.int32)
        numbers = jax.make_array_from_process_local_data(self._place, local)
        before, self._pending = self._pending, self._largest(numbers)
        return 0 if before is None else int(before)
