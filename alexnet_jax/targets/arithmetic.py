"""The arithmetic of a program before it is compiled (StableHLO), on one device."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

from alexnet_jax.targets.program import served_layer
from alexnet_jax.targets.target import Target


_TENSORS = r"\(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>"
_CONVOLUTION = re.compile(
    r"stablehlo\.convolution\(.*dim_numbers = \[.*\]x\[(.*)\]->\[.*\], window.*"
    rf" : {_TENSORS}"
)
_PRODUCT = re.compile(
    rf"stablehlo\.dot_general .*contracting_dims = \[(.*?)\] x \[.*\].* : {_TENSORS}"
)
_PLACE = re.compile(r"loc\((#loc\d*)\)$")
_NAMED = re.compile(r'^(#loc\d*) = loc\("([^"]*)"', re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """A convolution or a matrix product.

    Attributes:
      layer: of the network that it serves, if the text names one.
      operations: a multiply-add is two. What a convolution multiplies with its padding
        counts, as the units compute it.
      channels: values that it contracts, of a convolution in each tap.
      taps: of a convolution's kernel.
      outputs: of the second operand.
      rows: all others, as images times places.
    """

    layer: str | None
    operations: int
    channels: int
    taps: int
    outputs: int
    rows: int

    def filled(self, target: Target) -> float:
        """The most of a target's matrix unit that its shape can use. Either operand
        may be the one that the unit holds."""
        contracted = self.channels * (self.taps if target.contracts_taps else 1)
        return max(
            target.filled(contracted, others) for others in (self.outputs, self.rows)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What a layer's products cost: operations, and those of a unit that is full all
    the time it takes for them."""

    operations: int
    of_unit: float

    @property
    def filled(self) -> float:
        """The share of the matrix unit that the layer's shapes can use."""
        return self.operations / self.of_unit


def work_by_layer(
    products: Iterable[Product], target: Target
) -> dict[str | None, Work]:
    """What each layer's products cost on a target, in the network's order."""
    found: dict[str | None, Work] = {}
    for product in products:
        before = found.get(product.layer, Work(operations=0, of_unit=0))
        found[product.layer] = Work(
            operations=before.operations + product.operations,
            of_unit=before.of_unit + product.operations / product.filled(target),
        )
    return found


def read_products(text: str) -> Iterator[Product]:
    """Each convolution and matrix product of a program, in its order; one within a
    loop once.

    Args:
      text: of the program. Layers are known where it has locations
        (`as_text(debug_info=True)`).
    """
    names = dict(_NAMED.findall(text))
    for line in text.splitlines():
        if found := _CONVOLUTION.search(line):
            letters, _, kernel, output = found.groups()
            places = [letter.strip() for letter in letters.split(",")]
            sides = dict(zip(places, _sides(kernel), strict=True))
            outputs, channels = sides.pop("o"), sides.pop("i")
            taps = math.prod(sides.values())
        elif found := _PRODUCT.search(line):
            contracted, left, right, output = found.groups()
            sides_ = _sides(left)
            taps, channels = 1, math.prod(sides_[int(n)] for n in contracted.split(","))
            outputs = math.prod(_sides(right)) // channels
        else:
            continue
        values = math.prod(_sides(output))
        place = _PLACE.search(line)
        yield Product(
            layer=served_layer(names.get(place[1], "") if place else ""),
            operations=2 * values * channels * taps,
            channels=channels,
            taps=taps,
            outputs=outputs,
            rows=values // outputs,
        )


def _sides(tensor: str) -> list[int]:
    return [int(side) for side in tensor.split("x")[:-1]]
