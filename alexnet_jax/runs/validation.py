"""Temporary."""

from collections.abc import Callable

from alexnet_jax.training.evaluation import make_validation


__all__ = ["Validate", "make_validation"]
Validate = Callable[..., dict[str, float]]
