"""The arithmetic of a program before it is compiled (StableHLO), on one device."""

import math
import re
from collections.abc import Iterator


_TENSORS = r"\(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>"
_CONVOLUTION = re.compile(
    r"stablehlo\.convolution\(.*dim_numbers = \[.*\]x\[(.*)\]->\[.*\], window.*"
    rf" : {_TENSORS}"
)
_PRODUCT = re.compile(
    rf"stablehlo\.dot_general .*contracting_dims = \[(.*?)\] x \[.*\].* : {_TENSORS}"
)


def products(text: str) -> Iterator[int]:
    """Operations of each convolution and matrix product, in the program's order.

    A multiply-add is two. What a convolution multiplies with its padding counts, as the
    units compute it; so does each product once, also one within a loop.
    """
    for line in text.splitlines():
        if found := _CONVOLUTION.search(line):
            letters, _, kernel, output = found.groups()
            places = [letter.strip() for letter in letters.split(",")]
            outputs = _sides(kernel)[places.index("o")]
            yield 2 * math.prod(_sides(output)) * math.prod(_sides(kernel)) // outputs
        elif found := _PRODUCT.search(line):
            contracted, left, _, output = found.groups()
            sides = _sides(left)
            length = math.prod(sides[int(axis)] for axis in contracted.split(","))
            yield 2 * math.prod(_sides(output)) * length


def _sides(tensor: str) -> list[int]:
    return [int(side) for side in tensor.split("x")[:-1]]
