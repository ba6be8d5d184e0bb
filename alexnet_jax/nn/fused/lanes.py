"""What the lanes of a kernel do: where their values lie, how they load and store them,
and the few operations that differ between a GPU and a test."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.nn.fused.launch import Memory, Vector, Way, triton


class Maps(NamedTuple):
    """Where values lie in memory: `[images, rows, columns, channels]`."""

    images: int
    rows: int
    columns: int
    channels: int

    @property
    def values(self) -> jax.ShapeDtypeStruct:
        """The array of bfloat16 that these places are in."""
        return jax.ShapeDtypeStruct(tuple(self), jnp.bfloat16)

    @property
    def places(self) -> jax.ShapeDtypeStruct:
        """The array of `Maximum.place` where these are windows."""
        return jax.ShapeDtypeStruct(tuple(self), jnp.int8)

    @property
    def pooled(self) -> "Maps":
        """Those that overlapping pooling makes of these (section 3.4)."""
        rows, columns = ((n - 3) // 2 + 1 for n in (self.rows, self.columns))
        return self._replace(rows=rows, columns=columns)

    def find(
        self,
        image: Vector,
        row: Vector,
        column: Vector,
        channel: Vector,
        mask: Vector,
        *,
        before: bool = False,
    ) -> tuple[Any, Any]:
        """A value's place, and `mask` where it lies inside the maps. `before` says that
        a row or column may lie before the first."""
        place = (image * self.rows + row) * self.columns + column
        inside = mask & (row < self.rows) & (column < self.columns)
        if before:
            inside = inside & (row >= 0) & (column >= 0)
        return place * self.channels + channel, inside


def decode(lane: Vector, *sizes: int) -> list[Any]:
    """The indices behind flat numbers, slowest first; sizes of all but the slowest."""
    indices = []
    for size in reversed(sizes):
        if isinstance(lane, np.ndarray):
            lane, index = np.divmod(lane, np.int32(size))
        else:
            index, lane = lax.rem(lane, jnp.int32(size)), lax.div(lane, jnp.int32(size))
        indices.append(index)
    return [lane, *reversed(indices)]


def load(memory: Memory, base: Vector, width: int, mask: Vector) -> Any:
    """`width` adjacent values from each base on, in float32: `[lanes, width]`."""
    at, mask = _adjacent(base, width, mask)
    return memory.load(at, mask)


def store(memory: Memory, base: Vector, value: Vector, mask: Vector) -> None:
    """Write `[lanes, width]` values, adjacent ones from each base on."""
    at, mask = _adjacent(base, value.shape[1], mask)
    memory.store(at, value, mask)


def _adjacent(base: Vector, width: int, mask: Vector) -> tuple[Any, Any]:
    if isinstance(base, np.ndarray):
        at = base[:, None] + np.arange(width, dtype=np.int32)
        return at, np.broadcast_to(mask[:, None], at.shape)
    at = base[:, None] + lax.broadcasted_iota(jnp.int32, (1, width), 1)
    return at, jnp.broadcast_to(mask[:, None], at.shape)


def zeros(lane: Vector, width: int) -> Any:
    """`[lanes, width]` zeros."""
    numpy = np if isinstance(lane, np.ndarray) else jnp
    return numpy.zeros((lane.shape[0], width), np.float32)


def where(mask: Vector, value: Vector | np.float32, other: Vector | float = 0.0) -> Any:
    """The value where `mask`, else the other."""
    return (np if isinstance(mask, np.ndarray) else jnp).where(mask, value, other)


def split(values: Vector) -> list[Any]:
    """`[lanes, m]` as m arrays of `[lanes]`, for a power of two m; in registers."""
    lanes, width = values.shape
    if isinstance(values, np.ndarray):
        return list(values.T)
    if width == 1:
        return [values.reshape(lanes)]
    if width == 2:
        return list(lax.unstack(values, axis=1))
    even, odd = lax.unstack(values.reshape(lanes, width // 2, 2), axis=2)
    pairs = zip(split(even), split(odd), strict=True)
    return [value for pair in pairs for value in pair]


def join(parts: Sequence[Vector]) -> Any:
    """The inverse of `split`."""
    lanes, width = parts[0].shape[0], len(parts)
    if isinstance(parts[0], np.ndarray):
        return np.stack(parts, axis=1)
    if width == 1:
        return parts[0].reshape(lanes, 1)
    if width == 2:
        return lax.stack(parts, axis=1)
    halves = [join(parts[0::2]), join(parts[1::2])]
    return lax.stack(halves, axis=2).reshape(lanes, width)


def maximum(a: Vector, b: Vector, way: Way) -> Any:
    """The larger of two, NaN where one is. Triton's own maximum drops them, so that a
    network that has diverged would look whole."""
    if way is Way.DEVICE:
        return _assembly("max.NaN.f32 $0, $1, $2;", a, b)
    return np.maximum(a, b) if isinstance(a, np.ndarray) else jnp.maximum(a, b)


class Maximum:
    """The maximum of a pooling window of 3x3 values, and which of them it is: of equal
    ones the first.

    Args:
      start: what lies below all that counts.
      way: where the kernel runs.

    Attributes:
      value: `[lanes, width]`; NaN where one of the nine is.
      place: by rows, then columns, from 1 on; 0 where no value is above the start.
    """

    def __init__(self, start: Vector, way: Way) -> None:
        self.value, self._way = start, way
        self.place = zeros(start, start.shape[1])

    def take(self, value: Vector, row: int, column: int) -> None:
        """The next value of the window."""
        self.place = where(value > self.value, _number(row, column), self.place)
        self.value = maximum(self.value, value, self._way)


def is_maximum(place: Vector, row: int, column: int) -> Any:
    """Whether this value of a window is the one of `Maximum.place`."""
    return place == _number(row, column)


def _number(row: int, column: int) -> np.float32:
    return np.float32(3 * row + column + 1)


def rsqrt(x: Vector, way: Way) -> Any:
    """1 / sqrt(x) for normal positive x; for others `lax.rsqrt` spends three more
    instructions."""
    if way is Way.DEVICE:
        return _assembly("rsqrt.approx.ftz.f32 $0, $1;", x)
    return 1 / np.sqrt(x) if isinstance(x, np.ndarray) else lax.rsqrt(x)


def _assembly(code: str, *values: Any) -> Any:
    shape = jax.ShapeDtypeStruct(values[0].shape, values[0].dtype)
    (result,) = triton().elementwise_inline_asm(
        code,
        args=values,
        constraints="=f" + ",f" * len(values),
        pack=1,
        result_shape_dtypes=[shape],
    )
    return result
