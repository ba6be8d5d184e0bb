"""What every device that a step can be compiled for has a data sheet for."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A device that is not there.

    Attributes:
      name: as its maker has it.
      platform: JAX's name of the compiler, `cuda` or `tpu`.
      memory: bytes of its main memory.
      share: of the memory that a program can have.
      because: what takes the rest, in a few words.
      bandwidth: bytes a second to and from its main memory.
      bfloat16: operations a second of products in bfloat16, dense.
      float32: the same where a program's type is float32, at JAX's default precision.
      unit: how many contracted values, and how many outputs, its matrix unit takes at
        once; what a shape leaves over is filled with zeros.
      contracts_taps: whether it contracts the taps of a convolution with its channels,
        or one tap's channels at a time.
    """

    name: str
    platform: str
    memory: int
    share: float
    because: str
    bandwidth: float
    bfloat16: float
    float32: float
    unit: tuple[int, int]
    contracts_taps: bool

    @property
    def usable(self) -> int:
        """Bytes of its memory that a program can have."""
        return int(self.share * self.memory)

    def filled(self, contracted: int, outputs: int) -> float:
        """The share of the matrix unit that a product's shape can use."""
        share = 1.0
        for length, side in zip((contracted, outputs), self.unit, strict=True):
            share *= length / (math.ceil(length / side) * side)
        return share
