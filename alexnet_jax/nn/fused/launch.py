"""The seam to Pallas: how a kernel is launched, and how it reaches memory.

A kernel is a function of a vector of lanes, 32 bit numbers that it decodes to places,
and of memories. Every lane works on a few adjacent channels: eight are one load of 16
bytes. Nothing is padded but the last block of lanes.

A kernel runs in one of three ways (`Way`). Tests run it in NumPy: XLA takes half a
minute to compile for a CPU what Triton compiles in seconds, and Pallas' interpreter
does not know of arrays that vary over the axes of a mesh.
"""

import enum
import functools
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array


# Elements of the largest array: offsets are 32 bit.
LARGEST = 2**31 - 1
LANES_OF_A_WARP = 32

Vector = Array | np.ndarray
Arrays = tuple[Array, ...]
# What a stage makes forward: its results, and what it keeps for the way back.
Forward = tuple[Arrays, Arrays]


def triton() -> ModuleType:
    """Pallas' lowering to Triton.

    Imported by the first kernel and not with the package: JAX has announced that it
    will go, and everything but these kernels runs without it, and starts sooner.
    """
    from jax.experimental.pallas import triton as lowering

    return lowering


def cdiv(number: int, of: int) -> int:
    """How many groups of so many there are, the last one not full."""
    return -(-number // of)


class Way(enum.Enum):
    """Where a kernel runs: on the GPU, in Pallas' interpreter, or in NumPy."""

    DEVICE = "device"
    INTERPRETER = "interpreter"
    HOST = "host"


@runtime_checkable
class Memory(Protocol):
    """A flat array that lanes read or write."""

    def load(self, at: Any, mask: Any) -> Any:
        """The elements at these places in float32, zero where not `mask`."""
        ...

    def store(self, at: Any, value: Any, mask: Any) -> None:
        """Write a value, in the array's own type, where `mask`."""
        ...


class _Device:
    """Memory behind a reference of Pallas."""

    def __init__(self, ref: Any) -> None:
        self._ref = ref

    def load(self, at: Any, mask: Any) -> Any:
        zero = jnp.zeros((), self._ref.dtype)
        value = triton().load(self._ref.at[at], mask=mask, other=zero)
        return value.astype(jnp.float32)

    def store(self, at: Any, value: Any, mask: Any) -> None:
        triton().store(self._ref.at[at], value.astype(self._ref.dtype), mask=mask)


class _Host:
    """Memory in an array of NumPy."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def load(self, at: Any, mask: Any) -> Any:
        value = self.array[np.where(mask, at, 0)].astype(np.float32)
        return np.where(mask, value, np.float32(0))

    def store(self, at: Any, value: Any, mask: Any) -> None:
        self.array[at[mask]] = value[mask].astype(self.array.dtype)


class Launch(NamedTuple):
    """How lanes are laid out on a GPU; found by trying on an H100.

    Attributes:
      warps: warps of a block; every thread has one lane.
      blocks: how many blocks of lanes a program walks over where it adds up a sum: the
        more, the fewer partial sums there are.
    """

    warps: int = 4
    blocks: int = 1

    @property
    def block(self) -> int:
        """Lanes of a block."""
        return LANES_OF_A_WARP * self.warps


Body = Callable[..., Any]


def run(
    body: Body,
    lanes: int,
    inputs: Sequence[Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    *,
    name: str,
    way: Way,
    launch: Launch,
    sums: tuple[int, int] | None = None,
) -> tuple[list[Array], Array | None]:
    """Run a kernel on every lane once.

    Args:
      body: takes the lanes' numbers, of which the last block's may reach past `lanes`,
        a memory for each input and one for each output. It returns None or, for `sums`,
        `[lanes, channels of a lane]` in float32.
      lanes: how many there are.
      inputs: arrays that vary over the same mesh axes.
      outputs: shapes and types of the results.
      name: of the kernel, in profiles.
      way: where it runs.
      launch: see there.
      sums: how many groups of channels there are, and how many channels a group has;
        the last digits of a lane's number are its group. What the lanes return is added
        up by channel.

    Returns:
      The results, and the sums in float32 if asked for.
    """
    assert all(math.prod(a.shape) <= LARGEST for a in (*inputs, *outputs))
    inputs = [array.reshape(-1) for array in inputs]
    flat = [jax.ShapeDtypeStruct((math.prod(o.shape),), o.dtype) for o in outputs]
    if way is Way.HOST:
        made, added = _on_host(body, lanes, inputs, flat, sums)
    else:
        made, added = _launched(body, lanes, inputs, flat, name, way, launch, sums)
    results = [a.reshape(o.shape) for a, o in zip(made, outputs, strict=True)]
    return results, added


def _on_host(
    body: Body,
    lanes: int,
    inputs: Sequence[Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    sums: tuple[int, int] | None,
) -> tuple[list[Array], Array | None]:
    channels = math.prod(sums or (0,))
    total = jax.ShapeDtypeStruct((channels,), jnp.float32)

    def evaluate(*arrays: Array) -> list[np.ndarray]:
        made = [_Host(np.zeros(o.shape, o.dtype)) for o in outputs]
        given = [_Host(np.asarray(array)) for array in arrays]
        with np.errstate(all="ignore"):
            partial = body(np.arange(lanes, dtype=np.int32), *given, *made)
        added = partial.reshape(-1, channels).sum(0) if channels else np.zeros(0)
        return [*(memory.array for memory in made), added.astype(np.float32)]

    *made, added = jax.pure_callback(evaluate, [*outputs, total], *inputs)
    axes = tuple(jax.typeof(inputs[0]).manual_axis_type.varying)
    if axes:
        *made, added = (lax.pcast(a, axes, to="varying") for a in (*made, added))
    return made, added if channels else None


def _launched(
    body: Body,
    lanes: int,
    inputs: Sequence[Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    name: str,
    way: Way,
    launch: Launch,
    sums: tuple[int, int] | None,
) -> tuple[list[Array], Array | None]:
    from jax.experimental import pallas as pl

    block = launch.block
    blocks = min(launch.blocks, cdiv(lanes, block)) if sums else 1
    programs = cdiv(lanes, block * blocks)
    outputs = list(outputs)
    if sums is not None:
        groups, width = sums
        # A lane must keep its group of channels from one block to the next.
        programs = _multiple(programs, groups // math.gcd(groups, block))
        partial = jax.ShapeDtypeStruct((programs * block * width,), jnp.float32)
        outputs.append(partial)

    def kernel(*refs: Any) -> None:
        memories = [_Device(ref) for ref in refs]
        first = pl.program_id(0) * block + lax.iota(jnp.int32, block)
        if sums is None:
            body(first, *memories)
            return
        *memories, partial = memories

        def step(number: Array, total: Array) -> Array:
            more = body(first + number * (programs * block), *memories)
            assert more is not None
            return total + more

        total = jnp.zeros((block, sums[1]), jnp.float32)
        if blocks == 1:
            total = step(jnp.int32(0), total)
        else:
            total = lax.fori_loop(jnp.int32(0), jnp.int32(blocks), step, total)
        at = (first * sums[1])[:, None] + lax.broadcasted_iota(
            jnp.int32, total.shape, 1
        )
        partial.store(at, total, at >= 0)

    kernel.__name__ = name
    # Inside `shard_map` results vary over the mesh axes that the inputs vary over.
    typed = functools.partial(
        jax.ShapeDtypeStruct, manual_axis_type=jax.typeof(inputs[0]).manual_axis_type
    )
    call = pl.pallas_call(
        kernel,
        grid=(programs,),
        out_shape=[typed(o.shape, o.dtype) for o in outputs],
        compiler_params=triton().CompilerParams(num_warps=launch.warps, num_stages=1),
        interpret=way is Way.INTERPRETER,
        name=name,
    )
    made: list[Array] = list(call(*inputs))
    if sums is None:
        return made, None
    *made, partial = made
    return made, partial.reshape(-1, math.prod(sums)).sum(0)


def _multiple(number: int, of: int) -> int:
    return cdiv(number, of) * of
