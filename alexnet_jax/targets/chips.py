"""Google's TPUs: their data sheets, and how libtpu calls them."""

import dataclasses

from alexnet_jax.targets.target import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip(Target):
    """A TPU.

    Attributes:
      generation: as libtpu has it.
    """

    generation: str
    platform: str = "tpu"
    because: str = "the rest is the runtime's"
    contracts_taps: bool = True


# From Google's data sheets. JAX's default precision multiplies float32 in bfloat16 on a
# TPU. What a program can have is what the compiler names where one does not fit.
CHIPS = {
    "v5e": Chip(
        name="TPU v5e",
        generation="v5e",
        memory=16 * 2**30,
        share=15.75 / 16,
        bandwidth=0.819e12,
        bfloat16=197e12,
        float32=197e12,
        unit=(128, 128),
    ),
    "v6e": Chip(
        name="TPU v6e",
        generation="v6e",
        memory=32 * 2**30,
        share=31.25 / 32,
        bandwidth=1.64e12,
        bfloat16=918e12,
        float32=918e12,
        unit=(256, 256),
    ),
}
