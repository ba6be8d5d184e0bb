"""Temporary."""

from collections.abc import Callable
from alexnet_jax.training.evaluation import make_validation

__all__ = ["make_validation", "Validate"]
Validate = Callable[..., dict[str, float]]
