"""What the processes of a run agree on: their config and data, and when to stop.

All of these functions are collective: every process calls them, in the same order. A
process that runs alone exchanges nothing.
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

from alexnet_jax.distributed.multihost import is_main, leave
from alexnet_jax.runtime.errors import InputError


# What JSON can hold.
Json = Any


def all_of(value: bool) -> bool:
    """Whether the value is true in every process."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.int32(value)).all())


def from_all(number: float) -> list[float]:
    """Each process's number, in single precision, by its index."""
    if jax.process_count() == 1:
        return [number]
    return multihost_utils.process_allgather(np.float32(number)).tolist()


def of_main(value: Json) -> Json:
    """The main process's value, in every process: of what each sees for itself, on a
    disk that another has written to, one may see less for a while.

    Args:
      value: as JSON has them; a tuple becomes a list.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    sent = text if is_main() else np.zeros(length, np.uint8)
    shared = np.asarray(multihost_utils.broadcast_one_to_all(sent))
    return json.loads(shared.astype(np.uint8).tobytes())


def in_main(action: Callable[[], object]) -> None:
    """Do something in the main process while the others wait for it.

    Raises:
      InputError: in every process, if the main process raised it.
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
            leave()
            refused = refused or InputError(
                "process 0 refused to start; see its output"
            )
    if refused is not None:
        raise refused


def check_same(settings: Mapping[str, object]) -> None:
    """Check that every process was given the same settings.

    Args:
      settings: flat, by dotted key; JSON values.

    Raises:
      InputError: in every process, with the keys and the processes that differ from the
        main process.
    """
    if jax.process_count() == 1:
        return
    # Digests have a fixed size: an all-gather needs equal shapes, which the values of
    # processes that differ may not have.
    mine = {key: _digest([key, value]) for key, value in settings.items()}
    names = _digest(sorted(mine))
    same_names = multihost_utils.process_allgather(names)
    if (same_names != same_names[0]).any():
        leave()
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
        leave()
        raise InputError(
            f"processes differ from process 0 in {'; '.join(differing)}; give every "
            "process the same config and the same data"
        )


def _digest(value: object) -> np.ndarray:
    text = json.dumps(value, sort_keys=True)
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)


class Agreement:
    """The largest of the processes' numbers, one step late and without waiting.

    A signal reaches one process, and all of them must stop at the same step. The
    exchange runs on the devices beside the training step, and its result is read one
    step later, so the loop never waits for it.
    """

    def __init__(self, mesh: Mesh) -> None:
        # One number a device.
        self._place = NamedSharding(mesh, P(mesh.axis_names))
        everywhere = NamedSharding(mesh, P())
        self._largest = jax.jit(jnp.max, out_shardings=everywhere)
        self._local = len(mesh.local_devices)
        self._pending: jax.Array | None = None

    def largest(self, number: int) -> int:
        """Hand in this step's number; returns the largest number of the step before.

        The first call returns 0. A process that runs alone gets its own number.
        """
        if jax.process_count() == 1:
            return number
        local = np.full(self._local, number, np.int32)
        numbers = jax.make_array_from_process_local_data(self._place, local)
        before, self._pending = self._pending, self._largest(numbers)
        return 0 if before is None else int(before)
