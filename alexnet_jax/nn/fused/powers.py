"""The response norm of `nn/lrn.py` in registers: windows of five, an exponent of 0.75.

y = x * s**-0.75,    s = k + alpha * (sum of x**2 over the window)
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax.nn.fused import lanes
from alexnet_jax.nn.fused.launch import Memory, Vector, Way


WINDOW, BETA = 5, 0.75


class Norm(NamedTuple):
    """The constants of a response norm; alpha multiplies the plain sum of squares."""

    k: float
    alpha: float

    @property
    def factor(self) -> np.float32:
        """What `power` leaves out: a factor can wait until after a maximum."""
        return np.float32(self.alpha**-BETA)

    @property
    def largest(self) -> float:
        """What no result exceeds: a value whose square is 2 k / alpha gives it, alone
        in its window."""
        return (2 * self.k / self.alpha) ** 0.5 * (3 * self.k) ** -BETA

    def power(self, total: Vector, way: Way) -> tuple[Vector, Vector]:
        """t**-0.75 and t**-1 for t = s / alpha, from a sum of squares."""
        root = lanes.rsqrt(total + np.float32(self.k / self.alpha), way)
        inverse = root * root
        return inverse * lanes.rsqrt(root, way), inverse


class Sums:
    """Sums over five neighbours. Two adjacent windows share the four values between
    them."""

    def __init__(self, values: Iterable[Vector] = ()) -> None:
        self._values = dict(enumerate(values))
        self._pairs: dict[int, Vector] = {}
        self._fours: dict[int, Vector] = {}

    def add(self, value: Vector) -> None:
        """Append a value."""
        self._values[len(self._values)] = value

    def _pair(self, first: int) -> Vector:
        if first not in self._pairs:
            self._pairs[first] = self._values[first] + self._values[first + 1]
        return self._pairs[first]

    def _four(self, first: int) -> Vector:
        if first not in self._fours:
            self._fours[first] = self._pair(first) + self._pair(first + 2)
        return self._fours[first]

    def __getitem__(self, first: int) -> Vector:
        """The sum of five values from this one on."""
        if first % 2:
            return self._four(first) + self._values[first + 4]
        return self._four(first + 1) + self._values[first]


def windows(values: Sequence[Vector]) -> list[Vector]:
    """Sums over each five neighbours of a list."""
    sums = Sums(values)
    return [sums[first] for first in range(len(values) - WINDOW + 1)]


class Around(NamedTuple):
    """Values at a lane's eight channels, and at some on either side; zero past the
    border of the tower."""

    before: Vector
    own: Vector
    behind: Vector


class Group(NamedTuple):
    """Which eight channels a lane has: of which tower, None where there is one; their
    number in it; and how many there are in a tower."""

    tower: Vector | None
    number: Vector
    groups: int

    def of(self, tower: int, mask: Vector) -> Vector:
        """`mask` where the lane is of a tower."""
        return mask if self.tower is None else mask & (self.tower == tower)


def group_of(group: Vector, groups: int, towers: int = 1) -> Group:
    """A group of the channels of all towers, which lie side by side."""
    if towers == 1:
        return Group(None, group, groups)
    tower, number = lanes.decode(group, groups // towers)
    return Group(tower, number, groups // towers)


def around(
    memory: Memory,
    base: Vector,
    group: Group,
    mask: Vector,
    halo: int,
) -> Around:
    """Load the eight channels at `base` and `halo` channels on either side."""
    inner = mask & (group.number > 0)
    outer = mask & (group.number < group.groups - 1)
    return Around(
        lanes.load(memory, base - halo, halo, inner),
        lanes.load(memory, base, 8, mask),
        lanes.load(memory, base + 8, halo, outer),
    )


def around_of(
    memories: Sequence[Memory],
    base: Vector,
    group: Group,
    mask: Vector,
    halo: int,
) -> Around:
    """The same where every tower has a memory of its own."""
    found = None
    for tower, memory in enumerate(memories):
        of_this = group.of(tower, mask)
        values = around(memory, base, group, of_this, halo)
        if found is None:
            found = values
        else:
            pairs = zip(values, found, strict=True)
            found = Around(*(lanes.where(of_this[:, None], a, b) for a, b in pairs))
    assert found is not None
    return found


def plus_bias(y: Around, bias: Around) -> Around:
    """A convolution's values with their bias, in float32: where the bias is larger than
    the signal, another rounding would take as much of it as that of the values."""
    return Around(*(a + b for a, b in zip(y, bias, strict=True)))


def rectified(x: Around, way: Way) -> Around:
    """ReLU."""
    return Around(*(lanes.maximum(a, lanes.zeros(a, a.shape[1]), way) for a in x))


def own_power(x: Around, norm: Norm, way: Way) -> Vector:
    """The power at a lane's own channels, from two more on either side."""
    squares = [v for a in x for v in lanes.split(a * a)]
    return norm.power(lanes.join(windows(squares)), way)[0]


class Normed(NamedTuple):
    """The norm at twelve channels: values before it, and `Norm.power`'s two results."""

    x: Around
    powers: Around
    inverses: Around


def normed(x: Around, norm: Norm, way: Way) -> Normed:
    """The norm at twelve channels, two on either side, from values at sixteen."""
    before, behind = lanes.split(x.before), lanes.split(x.behind)
    squares = [v for a in x for v in lanes.split(a * a)]
    totals = windows(squares)
    pairs = [
        norm.power(lanes.join(part), way)
        for part in (totals[:2], totals[2:10], totals[10:])
    ]
    twelve = Around(lanes.join(before[2:]), x.own, lanes.join(behind[:2]))
    powers, inverses = zip(*pairs, strict=True)
    return Normed(twelve, Around(*powers), Around(*inverses))


def gradient(n: Normed, norm: Norm, g: Around) -> Vector:
    """The gradient of the norm's input at eight channels, its result's at twelve."""
    scaled = [a * b for a, b in zip(g, n.powers, strict=True)]
    terms = [
        v
        for s, a, i in zip(scaled, n.x, n.inverses, strict=True)
        for v in lanes.split((s * a) * i)
    ]
    neighbours = lanes.join(windows(terms))
    return (scaled[1] - (2 * BETA) * n.x.own * neighbours) * norm.factor
