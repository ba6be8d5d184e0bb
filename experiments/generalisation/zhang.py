"""Networks of Zhang et al. 2017 for CIFAR-10, and a wide residual one that is not in
the paper's table, by parameters for each example.

Each standardises its images first, and is called with `learning`: whether batch
normalisation uses the statistics of the batch.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.standardize import standardize


# A shift and no scale, as by default in TensorFlow's slim, which the paper used; there
# the averages have a decay of 0.999.
BATCH_NORM: dict[str, Any] = {"momentum": 0.99, "epsilon": 1e-3}
XAVIER = nn.initializers.xavier_uniform()
HE = nn.initializers.he_normal()


class MLP(nn.Module):
    """One hidden layer of 512 units."""

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, learning: bool) -> jax.Array:
        x = standardize(images).reshape(images.shape[0], -1)
        x = nn.relu(nn.Dense(512, kernel_init=XAVIER)(x))
        return nn.Dense(self.num_classes, kernel_init=XAVIER)(x)


class SmallAlexNet(nn.Module):
    """The package's own, by the preset `small`."""

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, learning: bool) -> jax.Array:
        network = AlexNet.from_preset("small", num_classes=self.num_classes)
        logits: Any = network(images)
        return logits


class SmallInception(nn.Module):
    """The paper's small Inception (its figure 3).

    A unit is convolution, batch normalisation, ReLU. A pair of widths is a module of
    units of 1x1 and 3x3 side by side, a single width one that halves the maps: a unit
    of 3x3 with a stride of 2 beside max pooling.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, learning: bool) -> jax.Array:
        def unit(x: jax.Array, width: int, side: int, stride: int = 1) -> jax.Array:
            x = nn.Conv(
                width, (side, side), stride, use_bias=False, kernel_init=XAVIER
            )(x)
            x = nn.BatchNorm(
                use_running_average=not learning, use_scale=False, **BATCH_NORM
            )(x)
            return nn.relu(x)

        x = unit(standardize(images), 96, 3)
        for module in (
            *((32, 32), (32, 48), 80),
            *((112, 48), (96, 64), (80, 80), (48, 96), 96),
            *((176, 160), (176, 160)),
        ):
            if isinstance(module, tuple):
                parts = [unit(x, module[0], 1), unit(x, module[1], 3)]
            else:
                pooled = nn.max_pool(x, (3, 3), (2, 2), "SAME")
                parts = [unit(x, module, 3, 2), pooled]
            x = jnp.concatenate(parts, axis=-1)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=XAVIER)(x)


class WideResNet(nn.Module):
    """A wide residual network of 40 layers, four times as wide (Zagoruyko and
    Komodakis 2016), normalised before each convolution."""

    num_classes: int
    blocks: int = 6
    widths: tuple[int, ...] = (64, 128, 256)

    @nn.compact
    def __call__(self, images: jax.Array, *, learning: bool) -> jax.Array:
        def active(x: jax.Array) -> jax.Array:
            norm = nn.BatchNorm(use_running_average=not learning, **BATCH_NORM)
            return nn.relu(norm(x))

        def convolve(
            x: jax.Array, width: int, side: int = 3, stride: int = 1
        ) -> jax.Array:
            sides = (side, side)
            return nn.Conv(width, sides, stride, use_bias=False, kernel_init=HE)(x)

        x = convolve(standardize(images), 16)
        for group, width in enumerate(self.widths):
            for block in range(self.blocks):
                stride = 2 if group and not block else 1
                inside = active(x)
                if x.shape[-1] != width:
                    x = convolve(inside, width, 1, stride)
                inside = active(convolve(inside, width, stride=stride))
                x = x + convolve(inside, width)
        x = jnp.mean(active(x), axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=XAVIER)(x)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "alexnet": SmallAlexNet,
    "inception": SmallInception,
    "wide_resnet": WideResNet,
}
