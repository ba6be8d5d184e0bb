"""The targets by name. Without JAX, as the command reads it before JAX is imported."""

from alexnet_jax.runtime.errors import check_choice
from alexnet_jax.targets.cards import CARDS, Card
from alexnet_jax.targets.chips import CHIPS, Chip


TARGETS: dict[str, Chip | Card] = {**CHIPS, **CARDS}


def named(target: str) -> Chip | Card:
    """The target of a name on the command line.

    Raises:
      InputError: if there is none of the name.
    """
    check_choice("--target", target, TARGETS)
    return TARGETS[target]
