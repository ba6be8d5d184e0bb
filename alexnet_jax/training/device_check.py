"""Does a device compute each layer's update as float32 at highest precision would?

The update of one step, from the same start, batch and dropout masks, is computed twice
and compared layer by layer. Roundings add up on the way back through the network, so
the last layer is nearest and the first the farthest off; a gradient that is wrong, or
left out, is off by more, or by a factor.
"""

import dataclasses
import math
from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from alexnet_jax.distributed import placement
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.optimizer_state import rule_state
from alexnet_jax.training.schedule import Schedule, make_schedule
from alexnet_jax.training.step import init_state, make_train_step


# By layer and kind (`kernel`, `bias`).
Updates = Mapping[str, Mapping[str, np.ndarray]]

# How far a layer's update may be off, in roundings: that of the last layer, and how
# much each layer before it adds. In bfloat16 on a CPU `code2012` of 67 pixels gave
# 0.012 for fc8, 0.05 for fc7, 0.07 for fc6, 0.09 to 0.13 for conv5 to conv2 and 0.21
# for conv1 (batch 32). From its own start, at 224 pixels and batch 128, an H100 and a
# CPU gave about the same, 0.28 for conv1; these with the gradient of a pooling window
# to every one of its equal maxima, and with it to one conv1 0.26 and conv5 0.08
# (`experiments/accelerator/`).
LAST, EACH_BEFORE = 4.0, 12.0
# A rounding of half a unit in the last place, by what the products take.
ROUNDINGS = {"bfloat16": 2.0**-8, "tensorfloat32": 2.0**-11, "float32": 2.0**-24}
# Roundings are as often up as down: they do not scale an update.
SCALE_OFF = 0.15


@dataclasses.dataclass(frozen=True)
class LayerCheck:
    """How near a layer's update is.

    Attributes:
      error: the distance from the exact update, relative in norm; the larger of that of
        the kernel and that of the bias.
      usual: what it may be by rounding.
      scale: how large the update is along the exact one, 1 where it is right; that of
        the kernel or of the bias, whichever is farther from 1.
    """

    error: float
    usual: float
    scale: float

    @property
    def off(self) -> bool:
        """Whether more than rounding is wrong; also where a number is not finite."""
        near = self.error <= 2 * self.usual
        return not (near and abs(self.scale - 1) <= min(SCALE_OFF, 2 * self.usual))


def random_batch(batch_size: int, size: int, classes: int) -> dict[str, np.ndarray]:
    """A batch of random pixels and labels."""
    rng = np.random.default_rng(0)
    shape = (batch_size, size, size, 3)
    return {
        "image": rng.integers(0, 256, shape, dtype=np.uint8),
        "label": rng.integers(0, classes, batch_size).astype(np.int32),
        "colour_shift": rng.normal(0, 9, (batch_size, 3)).astype(np.float32),
    }


def one_update(
    model: AlexNet,
    mesh: Mesh,
    batch: Mapping[str, np.ndarray],
    schedule: Schedule | None = None,
) -> Updates:
    """What one step without weight decay changes of each parameter, on the host.

    The step starts from random kernels through which signals keep their size, and
    biases of zero: a network's own start may let hardly any signal through (as
    `paper`'s), and then roundings are all that can be compared.

    Args:
      model: the network, in the type to be checked.
      mesh: of the device.
      batch: of `random_batch`.
      schedule: of learning rates, the same for all layers by default.
    """
    size = batch["image"].shape[1]
    schedule = schedule or make_schedule(steps_per_epoch=1)
    rule = momentum_sgd(schedule, weight_decay=0.0)
    state = init_state(model, rule, mesh, size, 0)
    state = state._replace(params=_loud(state.params))
    mean = np.full((size, size, 3), 120, np.float32)
    after, _ = make_train_step(model, rule, schedule, mesh, 0)(
        state,
        placement.to_devices(batch, mesh),
        jax.device_put(mean, placement.replicated(mesh)),
    )
    # Not the difference of parameters, which is rounded to the parameters' size.
    return jax.device_get(rule_state(after.opt_state).velocity)


def _loud(params: PyTree) -> PyTree:
    """Kernels of the deviation sqrt(2 / inputs) (He et al. 2015), and biases of 0."""
    rng = np.random.default_rng(1)

    def draw(path: tuple[Any, ...], array: jax.Array) -> jax.Array:
        # Towers, and of a locally connected layer places, come before a kernel's inputs
        # and outputs: height, width and channels, or one axis.
        inputs = math.prod(array.shape[1:][-4:-1])
        deviation = (2 / inputs) ** 0.5 if path[-1].key == "kernel" else 0.0
        drawn = deviation * rng.standard_normal(array.shape, np.float32)
        return jax.device_put(drawn.astype(np.float32), array.sharding)

    return jax.tree_util.tree_map_with_path(draw, params)


def compare(updates: Updates, exact: Updates, rounding: float) -> dict[str, LayerCheck]:
    """How near each layer's update is, in the order of the layers.

    Args:
      updates: of the device.
      exact: of float32 at highest precision.
      rounding: relative, of one product; see `ROUNDINGS`.
    """
    names = sorted(exact, key=lambda name: int(name.lstrip(ascii_lowercase)))
    checks = {}
    for behind, name in enumerate(reversed(names)):
        pairs = [(updates[name][kind], exact[name][kind]) for kind in exact[name]]
        nearness = [_nearness(got, right) for got, right in pairs]
        checks[name] = LayerCheck(
            error=max((error for error, _ in nearness), key=_size),
            usual=rounding * (LAST + EACH_BEFORE * behind),
            scale=max((scale for _, scale in nearness), key=lambda s: _size(s - 1)),
        )
    return {name: checks[name] for name in names}


def _size(number: float) -> float:
    return math.inf if math.isnan(number) else abs(number)


def _nearness(got: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """The relative distance, and the scale."""
    got, exact = (array.astype(np.float64).ravel() for array in (got, exact))
    square = float(exact @ exact)
    if square == 0:
        # A frozen layer.
        return (0.0, 1.0) if not got.any() else (math.inf, math.inf)
    return float(np.linalg.norm(got - exact)) / square**0.5, float(got @ exact) / square
