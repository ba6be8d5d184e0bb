"""Bias, ReLU and overlapping max pooling in one kernel each way; and bias and ReLU
alone, of which only the derivative is a kernel: XLA fuses the rest with what is around
it."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from alexnet_jax.nn.fused import lanes
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


VEC = 8
FORWARD, BACKWARD = Launch(), Launch(blocks=8)


class Pool(NamedTuple):
    """The stage: bias, ReLU, pooling."""

    way: Way

    def forward(self, y: Array, bias: Array) -> Forward:
        """Values of a convolution and its bias to the pooled values, and what
        `backward` needs."""
        maps = Maps(*y.shape)
        pooled, groups = maps.pooled, maps.channels // VEC
        count = maps.images * pooled.rows * pooled.columns * groups

        def body(
            lane: Vector, y: Memory, bias: Memory, whose: Memory, p: Memory
        ) -> None:
            image, i, j, group = lanes.decode(lane, pooled.rows, pooled.columns, groups)
            mask, channel = lane < count, group * VEC
            b = lanes.load(bias, channel, VEC, mask)
            best = Maximum(lanes.zeros(lane, VEC), self.way)  # Zero is the ReLU.
            for row in range(3):
                for column in range(3):
                    place = (image, 2 * i + row, 2 * j + column, channel)
                    base, _ = maps.find(*place, mask)  # Windows lie in the maps.
                    x = lanes.load(y, base, VEC, mask)
                    best.take(x + b, row, column)
            lanes.store(whose, lane * VEC, best.place, mask)
            lanes.store(p, lane * VEC, best.value, mask)

        (whose, p), _ = run(
            body,
            count,
            [y, bias.astype(y.dtype)],
            [pooled.places, pooled.values],
            name="pool_forward",
            launch=FORWARD,
            way=self.way,
        )
        # Of y the way back takes the shape alone, so that XLA does not keep it.
        return (p,), (y, whose)

    def backward(self, kept: Arrays, gradients: Arrays) -> tuple[Array, Array]:
        """The gradient of the convolution's values, and its sums in float32."""
        y, whose = kept
        maps = Maps(*y.shape)
        pooled = maps.pooled
        groups = maps.channels // VEC
        rows, columns = cdiv(maps.rows, 2), cdiv(maps.columns, 2)
        count = maps.images * rows * columns * groups

        def body(lane: Vector, whose: Memory, g: Memory, dx: Memory) -> Vector:
            image, i, j, group = lanes.decode(lane, rows, columns, groups)
            mask, channel = lane < count, group * VEC
            maxima, gradients = {}, {}
            for up in range(2):
                for left in range(2):
                    place = (image, i - up, j - left, channel)
                    base, inside = pooled.find(*place, mask, before=True)
                    maxima[up, left] = lanes.load(whose, base, VEC, inside)
                    gradients[up, left] = lanes.load(g, base, VEC, inside)
            total = lanes.zeros(lane, VEC)
            for row in range(2):
                for column in range(2):
                    place = (image, 2 * i + row, 2 * j + column, channel)
                    base, inside = maps.find(*place, mask)
                    sent = lanes.zeros(lane, VEC)
                    for up in range(2 - row):
                        for left in range(2 - column):
                            at = (row + 2 * up, column + 2 * left)
                            hit = lanes.is_maximum(maxima[up, left], *at)
                            sent += lanes.where(hit, gradients[up, left])
                    lanes.store(dx, base, sent, inside)
                    total += lanes.where(inside[:, None], sent)
            return total

        (dx,), sums = run(
            body,
            count,
            [whose, *gradients],
            [maps.values],
            name="pool_backward",
            launch=BACKWARD,
            way=self.way,
            sums=(groups, VEC),
        )
        assert sums is not None
        return dx, sums


class Rectify(NamedTuple):
    """The stage: bias, ReLU, and the parts of several towers that lie side by side."""

    towers: int
    way: Way

    def forward(self, y: Array, bias: Array) -> Forward:
        """Values of a convolution and its bias to those after ReLU, and what `backward`
        needs."""
        x = y + jnp.broadcast_to(bias.astype(y.dtype), y.shape)
        r = jnp.maximum(x, jnp.zeros((), x.dtype))
        rs = tuple(jnp.split(r, self.towers, axis=-1))
        return rs, rs

    def backward(self, kept: Arrays, gradients: Arrays) -> tuple[Array, Array]:
        """The gradient of the convolution's values, and its sums in float32."""
        pairs = zip(kept, gradients, strict=True)
        dxs, sums = zip(*(self._backward(r, g) for r, g in pairs), strict=True)
        return jnp.concatenate(dxs, axis=-1), jnp.concatenate(sums)

    def _backward(self, r: Array, g: Array) -> tuple[Array, Array]:
        maps = Maps(*r.shape)
        count = r.size // VEC

        def body(lane: Vector, r: Memory, g: Memory, dx: Memory) -> Vector:
            mask = lane < count
            value = lanes.load(r, lane * VEC, VEC, mask)
            straight = lanes.load(g, lane * VEC, VEC, mask)
            value = lanes.where(value > 0, straight)
            lanes.store(dx, lane * VEC, value, mask)
            return value

        (dx,), sums = run(
            body,
            count,
            [r, g],
            [maps.values],
            name="relu_backward",
            launch=BACKWARD,
            way=self.way,
            sums=(maps.channels // VEC, VEC),
        )
        assert sums is not None
        return dx, sums
