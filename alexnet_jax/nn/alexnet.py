"""AlexNet in towers, as a Flax module (section 3.5 and figure 2 of the paper).

The paper splits the network over two GPUs. Here the halves are called towers, and
every parameter of a tower has a leading axis of size `towers`. A device works on a list
of the towers it holds: all of them on one device, one of them where a mesh axis
`tower_axis` splits the parameters. Inside `shard_map` all shapes are those of the local
shard.

Towers see each other's features only where a layer's name is in `exchanges`: there the
features are concatenated and gathered over the axis. The last layer is each tower's
partial product, added over towers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

from alexnet_jax.nn import lrn, pooling, shapes
from alexnet_jax.nn.convolution import convolve
from alexnet_jax.nn.standardize import whiten
from alexnet_jax.nn.towers import (
    TowerParameters,
    add_bias,
    dropout,
    gather,
    own_part,
    tower_indices,
)
from alexnet_jax.runtime.errors import InputError


ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh, "sigmoid": nn.sigmoid}


class AlexNet(nn.Module):
    """The network of run 145 of the 2012 code, and its family.

    Widths are for all towers together; each holds an equal part. Layers are named
    `conv1` to `convN`, then `fcN+1` and so on; the last gives the logits.

    Without `tower_axis` the module runs anywhere, on one device and outside any mesh:

    >>> model = AlexNet(num_classes=10)
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    >>> model.apply(variables, jnp.zeros((2, 224, 224, 3))).shape
    (2, 10)

    Attributes:
      num_classes: how many logits.
      towers: how many towers; the paper's GPUs.
      channels: kernels of each convolution.
      kernel_sizes: side of each convolution's kernels.
      strides: of each convolution. One with a stride sees zeros to the right and
        bottom, up to the next whole stride, as in the 2012 code (224 becomes 227); one
        without keeps the size, and must have odd kernels.
      picture_padding: zeros to the left of pictures and above them, as torchvision has
        two of them.
      whiten: whether each picture is brought to mean 0 and variance 1 first.
      hidden: widths of the hidden fully connected layers.
      exchanges: the layers that see every tower's features.
      activation: a key of `ACTIVATIONS`.
      pools: the layers followed by max pooling.
      pool_window: side of the pooling window.
      pool_stride: distance between pooling windows; less than the window overlaps.
      pool_partial: whether a last window may hang over the border.
      pool_cut: whether rows and columns at the end that fill no window are left out. If
        neither, only sizes into which every window fits are taken.
      norms: the layers followed by local response normalisation.
      norm_before_relu: those of them normalised before the non-linearity.
      norm_after_pool: whether pooling comes before normalisation.
      norm_across_towers: whether the normalisation sees across the border between
        towers, as Caffe's does; one more exchange for each.
      norm_size: channels in the window of the normalisation.
      norm_k: its additive constant.
      norm_alpha: its factor of the plain sum of squares.
      norm_beta: its exponent.
      same_map_norms: the layers with `lrn.same_map_norm` behind the normalisation.
      dropout: the part of the hidden fully connected outputs set to zero in training;
        otherwise outputs are multiplied by what remains, as in section 4.2.
      dropout_after: the layers whose outputs dropout zeroes, if not those: torchvision
        has it one layer earlier.
      kernel_std: standard deviation of each layer's initial kernels.
      bias: each layer's initial bias.
      dtype: type of the computation, `float32` or `bfloat16`; parameters are float32.
      tower_axis: the mesh axis over which towers are split, inside `shard_map`.
    """

    num_classes: int
    towers: int = 2
    channels: Sequence[int] = (96, 256, 384, 384, 256)
    kernel_sizes: Sequence[int] = (11, 5, 3, 3, 3)
    strides: Sequence[int] = (4, 1, 1, 1, 1)
    picture_padding: int = 0
    whiten: bool = False
    hidden: Sequence[int] = (4096, 4096)
    exchanges: Sequence[str] = ("conv3", "fc6", "fc7")
    activation: str = "relu"
    pools: Sequence[str] = ("conv1", "conv2", "conv5")
    pool_window: int = 3
    pool_stride: int = 2
    pool_partial: bool = False
    pool_cut: bool = False
    norms: Sequence[str] = ("conv1", "conv2")
    norm_before_relu: Sequence[str] = ("conv1",)
    norm_after_pool: bool = False
    norm_across_towers: bool = False
    norm_size: int = 5
    norm_k: float = 2.0
    norm_alpha: float = 2e-5
    norm_beta: float = 0.75
    same_map_norms: Sequence[str] = ("conv2",)
    dropout: float = 0.5
    dropout_after: Sequence[str] | None = None
    kernel_std: Sequence[float] = (0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01)
    bias: Sequence[float] = (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    dtype: str = "float32"
    tower_axis: str | None = None

    @nn.nowrap
    def init(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Variables as plain arrays; see `flax.linen.Module.init`."""
        return nn.unbox(self.init_partitioned(*args, **kwargs))

    @nn.nowrap
    def init_partitioned(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Variables with the names of their axes, for `nn.get_partition_spec`."""
        variables: Any = super().init(*args, **kwargs)
        return variables

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, in order."""
        convolutions = len(self.channels)
        last = convolutions + len(self.hidden) + 1
        return tuple(
            f"{'conv' if number <= convolutions else 'fc'}{number}"
            for number in range(1, last + 1)
        )

    @property
    def features(self) -> tuple[str, ...]:
        """The names that `__call__` takes as `layers`.

        `NAME.linear` is a layer's output before its non-linearity, `NAME` after it;
        `normN` and `poolN` are what they say.
        """
        names: list[str] = []
        for number, name in enumerate(self.layers, start=1):
            names += [f"{name}.linear", name] if name != self.layers[-1] else [name]
            names += [f"norm{number}"] if name in self.norms else []
            names += [f"pool{number}"] if name in self.pools else []
        return tuple(names)

    def sizes(self, side: int) -> list[int] | None:
        """Side of the maps that leave each convolution's layer, for pictures of `side`.

        None where some window of a layer doesn't fit exactly.
        """
        pooled = [layer in self.pools for layer in self.layers]
        return shapes.output_sides(
            side + self.picture_padding,
            convolutions=list(
                zip(self.kernel_sizes, self.strides, pooled, strict=False)
            ),
            pool_window=self.pool_window,
            pool_stride=self.pool_stride,
            pool_partial=self.pool_partial,
            pool_cut=self.pool_cut,
        )

    def check_size(self, height: int, width: int) -> None:
        """Raise an InputError if arguments don't fit together, or pictures don't fit.

        It names the nearest sizes that do.
        """
        shapes.check_arguments(self, activations=ACTIVATIONS)
        for side, what in ((height, "height"), (width, "width")):
            shapes.check_side(side, what, lambda side: self.sizes(side) is not None)

    @nn.compact
    def __call__(
        self,
        images: Float[Array | np.ndarray, "batch height width colours"],
        *,
        dropout_key: Key[Array, ""] | None = None,
        examples: Int[Array, " batch"] | None = None,
        layers: Sequence[str] = (),
    ) -> Array | tuple[Array, dict[str, Array]]:
        """Logits of pictures, in float32, and any layers on request.

        Args:
          images: pictures, 0 to 255 less the mean picture.
          dropout_key: turns dropout on. It stands for the seed and the step; the layer,
            the tower and the example's place are folded in here.
          examples: each picture's place in the global batch, for its dropout mask;
            counted from 0 where it is left out.
          layers: names out of `features`. The result is then a pair of the logits and a
            dictionary of these layers' values, towers side by side in the last axis.

        Raises:
          InputError: if the pictures' size doesn't work out, or a layer is unknown.
        """
        self.check_size(images.shape[1], images.shape[2])
        unknown = [name for name in layers if name not in self.features]
        if unknown:
            raise InputError(
                f"no layer {', '.join(unknown)}; choose from {', '.join(self.features)}"
            )
        if examples is None:
            examples = jnp.arange(images.shape[0], dtype=jnp.int32)

        kept: dict[str, Array] = {}

        def keep(name: str, values: list[Array]) -> None:
            if name in layers:
                kept[name] = gather(values, self.tower_axis)

        padding = (self.picture_padding, 0)
        x = whiten(jnp.asarray(images)) if self.whiten else images
        x = jnp.asarray(x, self.dtype)
        x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
        if self.tower_axis is not None:
            # Every tower sees the pictures; their first convolution is the tower's own.
            x = lax.pcast(x, self.tower_axis, to="varying")
        xs = [x] * len(self._tower_indices())
        for index, name in enumerate(self.layers[:-1]):
            if name in self.exchanges:
                xs = self._gather(xs)
            if index < len(self.channels):
                xs = self._convolution(index, xs)
                keep(f"{name}.linear", xs)
                xs = self._after_convolution(index, xs, keep)
            else:
                xs = [x.reshape(x.shape[0], -1) for x in xs]
                xs = self._fully_connected(index, xs)
                keep(f"{name}.linear", xs)
                xs = [ACTIVATIONS[self.activation](x) for x in xs]
                keep(name, xs)
            if name in self.dropped:
                xs = [x.reshape(x.shape[0], -1) for x in xs]
                xs = dropout(
                    xs,
                    self._tower_indices(),
                    dropout_key,
                    layer=index,
                    examples=examples,
                    keep=1 - self.dropout,
                )
        logits = self._logits([x.reshape(x.shape[0], -1) for x in xs])
        if self.layers[-1] in layers:
            kept[self.layers[-1]] = logits
        return (logits, kept) if layers else logits

    def steps_after(self, layer: str) -> list[str]:
        """What follows a convolution, in order: `relu`, `norm` and `pool`."""
        steps = ["relu"]
        if layer in self.norms:
            steps.insert(0 if layer in self.norm_before_relu else 1, "norm")
        if layer in self.pools:
            before_norm = self.norm_after_pool and steps[-1] == "norm"
            steps.insert(-1 if before_norm else len(steps), "pool")
        return steps

    @property
    def dropped(self) -> Sequence[str]:
        """The layers whose outputs dropout zeroes."""
        if self.dropout_after is None:
            return self.layers[len(self.channels) : -1]
        return self.dropout_after

    def _tower_indices(self) -> list[int | Array]:
        return tower_indices(self.towers, self.tower_axis)

    def _gather(self, xs: list[Array]) -> list[Array]:
        return [gather(xs, self.tower_axis)] * len(xs)

    def _parameters(self, index: int, shape: tuple[int, ...]) -> TowerParameters:
        return TowerParameters(
            shape=shape,
            kernel_std=self.kernel_std[index],
            bias=self.bias[index],
            bias_by_tower=index < len(self.layers) - 1,
            name=self.layers[index],
        )

    def _convolution(self, index: int, xs: list[Array]) -> list[Array]:
        side, stride = self.kernel_sizes[index], self.strides[index]
        shape = (side, side, xs[0].shape[-1], self.channels[index] // self.towers)
        kernels, biases = self._parameters(index, shape)(self._tower_indices())
        return [
            add_bias(convolve(x, kernel, stride), bias)
            for x, kernel, bias in zip(xs, kernels, biases, strict=True)
        ]

    def _after_convolution(
        self, index: int, xs: list[Array], keep: Callable[[str, list[Array]], None]
    ) -> list[Array]:
        layer, number = self.layers[index], index + 1
        for step in self.steps_after(layer):
            act = self._steps(layer)[step]
            if step == "norm" and self.norm_across_towers:
                together = act(gather(xs, self.tower_axis))
                xs = own_part(together, self._tower_indices(), self.towers)
            else:
                xs = [act(x) for x in xs]
            keep(layer if step == "relu" else f"{step}{number}", xs)
        return xs

    def _steps(self, layer: str) -> dict[str, Callable[[Array], Array]]:
        def norm(x: Array) -> Array:
            x = lrn.local_response_norm(
                x,
                size=self.norm_size,
                k=self.norm_k,
                alpha=self.norm_alpha,
                beta=self.norm_beta,
            )
            return lrn.same_map_norm(x) if layer in self.same_map_norms else x

        pool = functools.partial(
            pooling.max_pool,
            window=self.pool_window,
            stride=self.pool_stride,
            partial=self.pool_partial,
        )
        return {"relu": ACTIVATIONS[self.activation], "norm": norm, "pool": pool}

    def _fully_connected(self, index: int, xs: list[Array]) -> list[Array]:
        width = self.hidden[index - len(self.channels)] // self.towers
        shape = (xs[0].shape[-1], width)
        kernels, biases = self._parameters(index, shape)(self._tower_indices())
        return [
            add_bias(x @ kernel.astype(x.dtype), bias)
            for x, kernel, bias in zip(xs, kernels, biases, strict=True)
        ]

    def _logits(self, xs: list[Array]) -> Float[Array, "batch classes"]:
        """Each tower's partial product, added over towers, and the one bias."""
        index = len(self.layers) - 1
        shape = (xs[0].shape[-1], self.num_classes)
        kernels, bias = self._parameters(index, shape)(self._tower_indices())
        partial = [
            jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)
            for x, kernel in zip(xs, kernels, strict=True)
        ]
        logits = functools.reduce(jnp.add, partial)
        if self.tower_axis is not None:
            logits = lax.psum(logits, self.tower_axis)
        return add_bias(logits, bias)
