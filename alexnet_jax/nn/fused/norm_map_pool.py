"""Bias, ReLU, LRN, the norm over places of `code2012`'s second layer, and overlapping
max pooling, in two kernels each way.

LRN sees the channels around a value and the second norm the places around it, so that
in one kernel every value would be normed 25 times. Forward, the first kernel stores
LRN's result n, and the second norms and pools it, and stores which of a window is its
maximum. Backward,

    v = g * s**-0.75, g being the gradient that the pooling hands on,
    u = v * n * alpha / s, so that dn = v - 2 * 0.75 * n * (sum of u over 5x5)

the first kernel stores u and v, and the second adds u up and goes back through LRN.
Both are stored in bfloat16, as the gradient between two layers is: v in float32 would
be two more bytes a value to write and to read. n is stored in float16, which takes as
much and has three bits more; it fits, however large x is (`Norm.largest`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from alexnet_jax.nn.fused import lanes, powers
from alexnet_jax.nn.fused.lanes import Maps, Maximum
from alexnet_jax.nn.fused.launch import (
    Arrays,
    Forward,
    Launch,
    Memory,
    Vector,
    Way,
    cdiv,
    run,
)
from alexnet_jax.nn.fused.powers import BETA, Around, Norm, Sums


# Channels of a lane, and rows of windows or of squares of 2x2 values that it walks
# over, in the kernels of the second norm: a lane holds five rows of seven places, for
# which eight channels would need more registers than a thread has.
VEC, ROWS = 4, 2
# Places that a lane of the last kernel walks over, one below the other. With two side
# by side it is as fast, and takes twice as long to compile.
LAST_ROWS = 3
PLAIN, LAST = Launch(), Launch(blocks=4)


class NormMapPool(NamedTuple):
    """The stage: LRN's constants, and those of the norm over places."""

    norm: Norm
    map_norm: Norm
    way: Way

    def forward(self, y: Array, bias: Array) -> Forward:
        """Values of a convolution and its bias to the pooled values, and what
        `backward` needs."""
        n = self._norm(y, bias)
        whose, p = self._map_pool(n)
        return (p,), (y, bias, n, whose)

    def backward(self, kept: Arrays, gradients: Arrays) -> tuple[Array, Array]:
        """The gradient of the convolution's values, and its sums in float32."""
        y, bias, n, whose = kept
        u, v = self._map_pool_backward(n, whose, *gradients)
        return self._norm_backward(y, bias, u, v)

    def _norm(self, y: Array, bias: Array) -> Array:
        groups, count = y.shape[-1] // 8, y.size // 8

        def body(lane: Vector, y: Memory, bias: Memory, n: Memory) -> None:
            _, group = lanes.decode(lane, groups)
            mask, channel = lane < count, group * 8
            group = powers.group_of(group, groups)
            x = powers.around(y, lane * 8, group, mask, 2)
            b = powers.around(bias, channel, group, mask, 2)
            x = powers.rectified(powers.plus_bias(x, b), self.way)
            value = x.own * powers.own_power(x, self.norm, self.way)
            lanes.store(n, lane * 8, value * self.norm.factor, mask)

        (n,), _ = run(
            body,
            count,
            [y, bias.astype(y.dtype)],
            [jax.ShapeDtypeStruct(y.shape, jnp.float16)],
            name="norm_forward",
            launch=PLAIN,
            way=self.way,
        )
        return n

    def _map_pool(self, n: Array) -> tuple[Array, Array]:
        maps = Maps(*n.shape)
        pooled, groups = maps.pooled, maps.channels // VEC
        rows = cdiv(pooled.rows, ROWS)
        count = maps.images * rows * pooled.columns * groups

        def body(lane: Vector, n: Memory, whose: Memory, p: Memory) -> None:
            image, i, j, group = lanes.decode(lane, rows, pooled.columns, groups)
            mask, channel = lane < count, group * VEC
            values = {}
            sums = [Sums() for _ in range(3)]
            best = [Maximum(lanes.zeros(lane, VEC), self.way) for _ in range(ROWS)]
            for row in range(2 * ROWS + 5):  # The first two are above the windows.
                found = []
                for column in range(7):
                    place = (image, 2 * ROWS * i + (row - 2), 2 * j + (column - 2))
                    base, inside = maps.find(*place, channel, mask, before=True)
                    found.append(lanes.load(n, base, VEC, inside))
                squares = powers.windows([value * value for value in found])
                for column in range(3):
                    values[row, column] = found[column + 2]
                    sums[column].add(squares[column])
                m = row - 4  # The row whose norm is now complete.
                if m < 0:
                    continue
                for column in range(3):
                    total = sums[column][m]
                    power, _ = self.map_norm.power(total, self.way)
                    value = values[m + 2, column] * power
                    for r in range(ROWS):
                        if 0 <= m - 2 * r < 3:
                            best[r].take(value, m - 2 * r, column)
                r, odd = divmod(m, 2)
                if r and not odd:
                    place = (image, ROWS * i + r - 1, j, channel)
                    base, inside = pooled.find(*place, mask)
                    value = best[r - 1].value * self.map_norm.factor
                    lanes.store(p, base, value, inside)
                    lanes.store(whose, base, best[r - 1].place, inside)

        (whose, p), _ = run(
            body,
            count,
            [n],
            [pooled.places, pooled.values],
            name="map_norm_pool_forward",
            launch=PLAIN,
            way=self.way,
        )
        return whose, p

    def _map_pool_backward(
        self, n: Array, whose: Array, g: Array
    ) -> tuple[Array, Array]:
        maps = Maps(*n.shape)
        pooled, groups = maps.pooled, maps.channels // VEC
        rows, columns = cdiv(maps.rows, 2 * ROWS), cdiv(maps.columns, 2)
        count = maps.images * rows * columns * groups

        def body(
            lane: Vector, n: Memory, whose: Memory, g: Memory, u: Memory, v: Memory
        ) -> None:
            image, i, j, group = lanes.decode(lane, rows, columns, groups)
            mask, channel = lane < count, group * VEC
            values, maxima, gradients = {}, {}, {}
            sums = [Sums() for _ in range(2)]

            def near(r: int) -> None:
                """Load the windows of pooled row r of the block, from -1 on."""
                for left in range(2):
                    place = (image, ROWS * i + r, j - left, channel)
                    base, inside = pooled.find(*place, mask, before=True)
                    maxima[r, left] = lanes.load(whose, base, VEC, inside)
                    gradients[r, left] = lanes.load(g, base, VEC, inside)

            near(-1)
            for row in range(2 * ROWS + 4):  # The first two are above the block.
                found = []
                for column in range(6):
                    place = (image, 2 * ROWS * i + (row - 2), 2 * j + (column - 2))
                    base, inside = maps.find(*place, channel, mask, before=True)
                    found.append(lanes.load(n, base, VEC, inside))
                squares = powers.windows([value * value for value in found])
                for column in range(2):
                    values[row, column] = found[column + 2]
                    sums[column].add(squares[column])
                m = row - 4  # The row of the block whose norm is now complete.
                if m < 0:
                    continue
                r, odd = divmod(m, 2)
                if not odd:
                    near(r)
                for column in range(2):
                    total, x = sums[column][m], values[m + 2, column]
                    power, inverse = self.map_norm.power(total, self.way)
                    sent = lanes.zeros(lane, VEC)
                    for up in range(1 if odd else 2):
                        for left in range(2 - column):
                            at = (odd + 2 * up, column + 2 * left)
                            hit = lanes.is_maximum(maxima[r - up, left], *at)
                            sent += lanes.where(hit, gradients[r - up, left])
                    place = (image, 2 * ROWS * i + m, 2 * j + column, channel)
                    base, inside = maps.find(*place, mask)
                    straight = (sent * power) * self.map_norm.factor
                    lanes.store(v, base, straight, inside)
                    lanes.store(u, base, (straight * x) * inverse, inside)

        (u, v), _ = run(
            body,
            count,
            [n, whose, g],
            [maps.values, maps.values],
            name="map_norm_pool_backward",
            launch=PLAIN,
            way=self.way,
        )
        return u, v

    def _norm_backward(
        self, y: Array, bias: Array, u: Array, v: Array
    ) -> tuple[Array, Array]:
        maps = Maps(*y.shape)
        groups, rows = maps.channels // 8, cdiv(maps.rows, LAST_ROWS)
        count = maps.images * rows * maps.columns * groups

        def body(
            lane: Vector, y: Memory, bias: Memory, u: Memory, v: Memory, dx: Memory
        ) -> Vector:
            image, i, j, group = lanes.decode(lane, rows, maps.columns, groups)
            mask, channel = lane < count, group * 8
            group = powers.group_of(group, groups)
            b = powers.around(bias, channel, group, mask, 4)
            boxes = [Sums() for _ in range(3)]
            total = lanes.zeros(lane, 8)
            for row in range(LAST_ROWS + 4):  # The first two are above the block.
                along = []
                for column in range(5):
                    place = (image, LAST_ROWS * i + (row - 2), j + (column - 2))
                    base, inside = maps.find(*place, channel, mask, before=True)
                    along.append(powers.around(u, base, group, inside, 2))
                for k in range(3):
                    boxes[k].add(powers.windows([values[k] for values in along])[0])
                r = row - 4  # The row of the block whose boxes are now complete.
                if r < 0:
                    continue
                place = (image, LAST_ROWS * i + r, j, channel)
                base, inside = maps.find(*place, mask)
                x = powers.around(y, base, group, inside, 4)
                x = powers.plus_bias(x, b)
                x = powers.rectified(x, self.way)
                n = powers.normed(x, self.norm, self.way)
                straight = powers.around(v, base, group, inside, 2)
                dn = self._map_gradient(n, straight, [box[r] for box in boxes])
                value = powers.gradient(n, self.norm, dn)
                value = lanes.where(x.own > 0, value)
                lanes.store(dx, base, value, inside)
                total += lanes.where(inside[:, None], value)
            return total

        (dx,), sums = run(
            body,
            count,
            [y, bias.astype(y.dtype), u, v],
            [maps.values],
            name="norm_backward",
            launch=LAST,
            way=self.way,
            sums=(groups, 8),
        )
        assert sums is not None
        return dx, sums

    def _map_gradient(
        self, n: powers.Normed, straight: Around, boxes: list[Vector]
    ) -> Around:
        """The gradient of LRN's result at twelve channels."""
        parts = []
        for k, (x, power) in enumerate(zip(n.x, n.powers, strict=True)):
            value = (x * power) * self.norm.factor
            parts.append(straight[k] - (2 * BETA) * value * boxes[k])
        return Around(*parts)
