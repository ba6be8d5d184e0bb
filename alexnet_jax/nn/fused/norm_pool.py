"""Bias, LRN, ReLU before or after it, and overlapping max pooling in one kernel each
way: the first layer of `code2012`, and the first two of `paper`.

Forward, a lane walks over the values of a few windows, eight channels at a time, and
stores which of a window is its maximum. Backward, a lane has a square of 2x2 values,
which lie in the same four windows; it adds up the gradients of those whose maximum a
value is, and goes back through the norm, which it computes again. It does so at twelve
channels, since a value's gradient needs that of two neighbours on either side.
"""

from typing import NamedTuple

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
from alexnet_jax.nn.fused.powers import Around, Norm


# Rows of windows that a lane walks over.
ROWS = 3
FORWARD, BACKWARD = Launch(), Launch(blocks=8)


class NormPool(NamedTuple):
    """The stage. ReLU follows the norm unless `relu_first`; of several towers side by
    side the norm sees one at a time, and the pooled values of each are an array."""

    norm: Norm
    relu_first: bool
    towers: int
    way: Way

    def forward(self, y: Array, bias: Array) -> Forward:
        """Values of a convolution and its bias to the pooled values, and what
        `backward` needs."""
        maps = Maps(*y.shape)
        windows, pooled, groups = maps.pooled, self._pooled(maps), maps.channels // 8
        rows = cdiv(pooled.rows, ROWS)
        count = maps.images * rows * pooled.columns * groups

        def body(
            lane: Vector, y: Memory, bias: Memory, whose: Memory, *ps: Memory
        ) -> None:
            image, i, j, group = lanes.decode(lane, rows, pooled.columns, groups)
            mask, channel = lane < count, group * 8
            group = powers.group_of(group, groups, self.towers)
            b = powers.around(bias, channel, group, mask, 2)
            # From zero on: that is the ReLU, or no more than what it left.
            best = [Maximum(lanes.zeros(lane, 8), self.way) for _ in range(ROWS)]
            for row in range(2 * ROWS + 1):
                for column in range(3):
                    place = (image, 2 * ROWS * i + row, 2 * j + column, channel)
                    base, inside = maps.find(*place, mask)
                    x = powers.around(y, base, group, inside, 2)
                    x = self._before_norm(powers.plus_bias(x, b))
                    value = x.own * powers.own_power(x, self.norm, self.way)
                    for r in range(ROWS):
                        if 0 <= row - 2 * r < 3:
                            best[r].take(value, row - 2 * r, column)
                r, odd = divmod(row, 2)
                if r and not odd:
                    place = (image, ROWS * i + r - 1, j)
                    base, inside = windows.find(*place, channel, mask)
                    lanes.store(whose, base, best[r - 1].place, inside)
                    base, inside = pooled.find(*place, group.number * 8, mask)
                    value = best[r - 1].value * self.norm.factor
                    for tower, p in enumerate(ps):
                        lanes.store(p, base, value, group.of(tower, inside))

        (whose, *ps), _ = run(
            body,
            count,
            [y, bias.astype(y.dtype)],
            [windows.places, *[pooled.values] * self.towers],
            name="norm_pool_forward",
            launch=FORWARD,
            way=self.way,
        )
        return tuple(ps), (y, bias, whose)

    def backward(self, kept: Arrays, gradients: Arrays) -> tuple[Array, Array]:
        """The gradient of the convolution's values, and its sums in float32."""
        y, bias, whose = kept
        maps = Maps(*y.shape)
        windows, pooled, groups = maps.pooled, self._pooled(maps), maps.channels // 8
        rows, columns = cdiv(maps.rows, 2), cdiv(maps.columns, 2)
        count = maps.images * rows * columns * groups

        def body(
            lane: Vector, y: Memory, bias: Memory, whose: Memory, *others: Memory
        ) -> Vector:
            *gs, dx = others
            image, i, j, group = lanes.decode(lane, rows, columns, groups)
            mask, channel = lane < count, group * 8
            group = powers.group_of(group, groups, self.towers)
            b = powers.around(bias, channel, group, mask, 4)
            maxima, sent = {}, {}
            for up in range(2):
                for left in range(2):
                    place = (image, i - up, j - left)
                    base, inside = windows.find(*place, channel, mask, before=True)
                    maxima[up, left] = powers.around(whose, base, group, inside, 2)
                    number = group.number * 8
                    base, inside = pooled.find(*place, number, mask, before=True)
                    sent[up, left] = powers.around_of(gs, base, group, inside, 2)
            total = lanes.zeros(lane, 8)
            for row in range(2):
                for column in range(2):
                    place = (image, 2 * i + row, 2 * j + column, channel)
                    base, inside = maps.find(*place, mask)
                    x = powers.around(y, base, group, inside, 4)
                    x = self._before_norm(powers.plus_bias(x, b))
                    n = powers.normed(x, self.norm, self.way)
                    received = [lanes.zeros(a, a.shape[1]) for a in n.x]
                    for up in range(2 - row):
                        for left in range(2 - column):
                            at = (row + 2 * up, column + 2 * left)
                            for k in range(3):
                                hit = lanes.is_maximum(maxima[up, left][k], *at)
                                received[k] += lanes.where(hit, sent[up, left][k])
                    value = powers.gradient(n, self.norm, Around(*received))
                    if self.relu_first:
                        value = lanes.where(x.own > 0, value)
                    lanes.store(dx, base, value, inside)
                    total += lanes.where(inside[:, None], value)
            return total

        (dx,), sums = run(
            body,
            count,
            [y, bias.astype(y.dtype), whose, *gradients],
            [maps.values],
            name="norm_pool_backward",
            launch=BACKWARD,
            way=self.way,
            sums=(groups, 8),
        )
        assert sums is not None
        return dx, sums

    def _pooled(self, maps: Maps) -> Maps:
        """One tower's pooled values."""
        return maps.pooled._replace(channels=maps.channels // self.towers)

    def _before_norm(self, x: Around) -> Around:
        return powers.rectified(x, self.way) if self.relu_first else x
