"""AlexNet in towers, as a Flax module (section 3.5 and figure 2 of the paper).

The paper splits the network over two GPUs. Here the halves are called towers, and
every parameter of a tower has a leading axis of size `towers`. A device works on a list
of the towers it holds: all of them on one device, one of them where a mesh axis
`tower_axis` splits the parameters. Inside `shard_map` all shapes are those of the local
shard.

Towers see each other's features only in layers with `exchange`: there the features are
concatenated and gathered over the axis. The last layer is each tower's partial product,
added over towers.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree

from alexnet_jax.nn import lrn, pooling, shapes
from alexnet_jax.nn.convolution import convolve_shared
from alexnet_jax.nn.fused import support
from alexnet_jax.nn.fused.stages import OF_TOWERS
from alexnet_jax.nn.layers import FEATURES, Conv, Local, Row, as_rows, feature_names
from alexnet_jax.nn.local import connect_shared
from alexnet_jax.nn.presets import CODE2012, PRESETS
from alexnet_jax.nn.products import in_each_tower, multiply_shared
from alexnet_jax.nn.standardize import standardize
from alexnet_jax.nn.towers import (
    TowerParameters,
    add_bias,
    dropout,
    flat,
    gather,
    own_part,
    tower_indices,
)
from alexnet_jax.runtime.errors import InputError, check_choice, check_number


ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh, "sigmoid": nn.sigmoid}
DTYPES = ("float32", "bfloat16")


class AlexNet(nn.Module):
    """The network of the paper's figure 2, and its family.

    The default is run 145 of the 2012 code, which gave the published digits. In its
    eight rows (`presets.CODE2012`) the paper is:

    - section 3.1, ReLU: `activation`; section 3.2, two GPUs that communicate in certain
      layers: `towers`, and a row's `exchange`; section 3.3, local response
      normalisation: `norm` in a row's `then`, and `norm_*` here; section 3.4,
      overlapping pooling: `pool` in `then`, and `pool_*` here;
    - section 3.5, figure 2: the rows' widths, kernels and strides;
    - section 4.2, dropout: `dropout` in `then`, and the rate here;
    - section 5, initial weights: a row's `kernel_std` and `bias`.

    Widths are for all towers together; each holds an equal part. Without `tower_axis`
    the module runs anywhere, on one device and outside any mesh:

    >>> model = AlexNet(num_classes=10)
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    >>> model.apply(variables, jnp.zeros((2, 224, 224, 3))).shape
    (2, 10)

    Attributes:
      num_classes: how many logits.
      layers: a row for each layer by name, a `Conv` for `conv1` to `convK` (a `Local`
        is called `local3`), then a `Dense` for `fcK+1` to `fcN`, the last of which
        gives the logits. A config has mappings of a row's keys instead.
      towers: how many towers; the paper's GPUs.
      image_padding: zeros to the left of images and above them; torchvision's network
        has two.
      standardize: whether each image is brought to mean 0 and variance 1 first.
      activation: the non-linearity of every layer, `relu`, `tanh` or `sigmoid`.
      pool_window: side of the pooling window, in values.
      pool_stride: distance between pooling windows; less than the window overlaps.
      pool_partial: whether a last window may hang over the border.
      pool_cut: whether rows and columns at the end that fill no window are left out. If
        neither, only sizes into which every window fits are taken.
      norm_across_towers: whether the normalisation sees across the border between
        towers, as Caffe's does; this adds an exchange for each.
      norm_size: channels in the window of the normalisation (n in section 3.3).
      norm_k: additive constant of the normalisation.
      norm_alpha: factor of the plain sum of squares in it.
      norm_beta: exponent of the normalisation.
      dropout: the fraction of outputs that dropout sets to zero in training; in
        evaluation outputs are multiplied by the fraction kept, as in section 4.2.
      dtype: type of the computation, `float32` or `bfloat16`; parameters are float32.
      implementation: how it is computed, never what: `xla`; `fused`, where what follows
        a convolution is one kernel for NVIDIA GPUs (nn/fused/README.md); `auto`, which
        is `xla` until the kernels have been compared on a GPU; or, for tests,
        `interpret`, those kernels on any device.
      tower_axis: the mesh axis over which towers are split, inside `shard_map`.

    Raises:
      InputError: if a value is out of range, or values do not fit together.
    """

    num_classes: int
    # Rows, once the module is made; a config gives mappings of their keys.
    layers: Mapping[str, Any] = FrozenDict(CODE2012)
    towers: int = 2
    image_padding: int = 0
    standardize: bool = False
    activation: str = "relu"
    pool_window: int = 3
    pool_stride: int = 2
    pool_partial: bool = False
    pool_cut: bool = False
    norm_across_towers: bool = False
    norm_size: int = lrn.NORM_SIZE
    norm_k: float = lrn.NORM_K
    norm_alpha: float = lrn.NORM_ALPHA
    norm_beta: float = lrn.NORM_BETA
    dropout: float = 0.5
    dtype: str = "float32"
    implementation: str = "auto"
    tower_axis: str | None = None

    def __post_init__(self) -> None:
        check_number("model.towers", self.towers, least=1, whole=True)
        # Modules are compared and hashed, and the rows with them.
        self.layers = FrozenDict(as_rows(self.layers, self.towers))
        check_choice("model.activation", self.activation, ACTIVATIONS)
        check_choice("model.dtype", self.dtype, DTYPES)
        check_choice(
            "model.implementation", self.implementation, support.IMPLEMENTATIONS
        )
        check_number("model.image_padding", self.image_padding, whole=True)
        check_number("model.dropout", self.dropout, below=1)
        lrn.check_constants(
            self.norm_size, self.norm_k, self.norm_alpha, self.norm_beta
        )
        pooling.check_windows(
            self.pool_window, self.pool_stride, self.pool_partial, self.pool_cut
        )
        super().__post_init__()

    @classmethod
    def from_preset(cls, name: str, *, num_classes: int, **changes: Any) -> "AlexNet":
        """The network of a preset: `AlexNet.from_preset("caffe", num_classes=10)`.

        Args:
          name: a key of `presets.PRESETS`.
          num_classes: how many logits.
          changes: attributes that take the place of the preset's.

        Raises:
          InputError: if there is no such preset.
        """
        if name not in PRESETS:
            raise InputError(f"no preset {name!r}; choose from {', '.join(PRESETS)}")
        return cls(num_classes=num_classes, **{**PRESETS[name], **changes})

    @nn.nowrap
    def init(self, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """Variables as plain arrays; those of `nn.Module.init` name their axes."""
        return nn.unbox(super().init(*args, **kwargs))

    @property
    def features(self) -> tuple[str, ...]:
        """The names that `__call__` takes as `layers`.

        `NAME.linear` is a layer's output before its non-linearity, `NAME` after it;
        `normN` and `poolN` are the values after normalisation and pooling in layer N.
        """
        return feature_names(self.layers)

    def sizes(self, side: int) -> list[int] | None:
        """Side of the maps that leave each convolution's layer, for images of `side`.

        None where some window of a layer doesn't fit exactly.
        """
        return shapes.output_sides(
            side + self.image_padding,
            convolutions=[r for r in self.layers.values() if isinstance(r, Conv)],
            pool_window=self.pool_window,
            pool_stride=self.pool_stride,
            pool_partial=self.pool_partial,
            pool_cut=self.pool_cut,
        )

    def check_size(self, height: int, width: int) -> None:
        """Raise an InputError that names the nearest sizes if images don't fit."""
        for side, what in ((height, "height"), (width, "width")):
            shapes.check_side(side, what, lambda side: self.sizes(side) is not None)

    @nn.compact
    def __call__(
        self,
        images: Float[Array | np.ndarray, "batch height width colours"],
        *,
        dropout_key: Key[Array, ""] | None = None,
        examples: Int[Array, " batch"] | None = None,
        layers: str | Sequence[str] = (),
    ) -> Array | tuple[Array, dict[str, Array]]:
        """Logits of images, in float32, and any layers on request.

        Args:
          images: RGB of 0 to 255, less the mean image.
          dropout_key: turns dropout on. It stands for the seed and the step; the layer,
            the tower and the example's place are folded in here.
          examples: each image's place in the global batch, for its dropout mask;
            counted from 0 where it is left out.
          layers: names out of `features`, or one name. The result is then a pair of the
            logits and a dictionary of these layers' values, towers side by side in the
            last axis.

        Raises:
          InputError: if the images' size doesn't fit, or a layer is unknown.
        """
        layers = (layers,) if isinstance(layers, str) else tuple(layers)
        self.check_size(images.shape[1], images.shape[2])
        if unknown := [name for name in layers if name not in self.features]:
            raise InputError(
                f"no layer {', '.join(unknown)}; choose from {', '.join(self.features)}"
            )
        if examples is None:
            examples = jnp.arange(images.shape[0], dtype=jnp.int32)
        dropped = functools.partial(
            dropout,
            indices=self._tower_indices(),
            key=dropout_key,
            examples=examples,
            keep=1 - self.dropout,
        )
        kept: dict[str, Array] = {}

        def keep(name: str, values: list[Array]) -> None:
            if name in layers:
                kept[name] = gather(values, self.tower_axis)

        *hidden, last = self.layers
        xs = self._towers_input(images)
        kernels = None if self.is_initializing() else support.kernels(self)
        for index, name in enumerate(hidden):
            row: Row = self.layers[name]
            names = (f"{name}.linear", name, f"norm{index + 1}", f"pool{index + 1}")
            # What a kernel leaves in registers can't be asked for.
            asked = any(feature in layers for feature in names)
            steps = () if kernels is None or asked else kernels.steps(row)
            # A compiled program names the layer that an operation serves.
            with jax.named_scope(name):
                xs = self._begin(name, xs, kernels, steps)
                if not steps:
                    keep(f"{name}.linear", xs)
            for step in row.then[len(steps) :]:
                if step == "dropout":
                    # The layer's place, from 0, decides its masks.
                    xs = dropped(xs, layer=index)
                else:
                    with jax.named_scope(name):
                        xs = self._after(name, step, xs)
                if step == "activation":
                    keep(name, xs)
                elif step in FEATURES:
                    keep(f"{FEATURES[step]}{index + 1}", xs)
        with jax.named_scope(last):
            logits = self._logits(last, xs)
        if last in layers:
            kept[last] = logits
        return (logits, kept) if layers else logits

    def _towers_input(self, images: Array | np.ndarray) -> list[Array]:
        """The images for each local tower, padded, in the type of the computation."""
        padding = (self.image_padding, 0)
        x = standardize(jnp.asarray(images)) if self.standardize else images
        x = jnp.asarray(x, self.dtype)
        x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
        if self.tower_axis is not None:
            # Every tower sees the images; their first convolution is the tower's own.
            x = lax.pcast(x, self.tower_axis, to="varying")
        return [x] * len(self._tower_indices())

    def _begin(
        self,
        name: str,
        xs: list[Array],
        kernels: support.Kernels | None,
        steps: tuple[str, ...],
    ) -> list[Array]:
        """A row's exchange, its linear operation and bias in each local tower, and the
        steps that a kernel takes with the bias."""
        if self.layers[name].exchange:
            xs = [gather(xs, self.tower_axis)] * len(xs)
        towers = len(xs)
        # The kernels take towers side by side, as one product gives them.
        together = steps in OF_TOWERS and all(x is xs[0] for x in xs)
        xs, biases = self._linear(name, xs, together)
        if kernels is not None and steps:
            return kernels.run(steps, xs, biases, towers)
        return [add_bias(x, bias) for x, bias in zip(xs, biases, strict=True)]

    def _tower_indices(self) -> list[int | Array]:
        return tower_indices(self.towers, self.tower_axis)

    def _parameters(
        self, name: str, shape: tuple[int, ...], places: tuple[int, ...] = ()
    ) -> TowerParameters:
        row: Row = self.layers[name]
        return TowerParameters(
            shape=shape,
            kernel_std=row.kernel_std,
            bias=row.bias,
            bias_by_tower=name != list(self.layers)[-1],
            places=places,
            name=name,
        )

    def _linear(
        self, name: str, xs: list[Array], together: bool
    ) -> tuple[list[Array], list[Array]]:
        """A convolution or a matrix product in each local tower, and the biases that
        are to be added; or, `together`, those of all towers side by side."""
        row: Row = self.layers[name]
        places = ()
        if isinstance(row, Conv):
            sides = (row.kernel, row.kernel)
            shape = (*sides, xs[0].shape[-1], row.channels // self.towers)
            product = functools.partial(convolve_shared, stride=row.stride)
            if isinstance(row, Local):
                places, product = xs[0].shape[1:3], connect_shared
        else:
            assert row.width is not None
            xs = flat(xs)
            shape = (xs[0].shape[-1], row.width // self.towers)
            product = multiply_shared
        parameters = self._parameters(name, shape, places)
        kernels, biases = parameters(self._tower_indices())
        if together:
            xs = xs[:1]
            kernels, biases = ([gather(list(a), None)] for a in (kernels, biases))
        return in_each_tower(product, xs, list(kernels)), list(biases)

    def _after(self, name: str, step: str, xs: list[Array]) -> list[Array]:
        """A step that follows a layer's linear operation, in each local tower."""
        act = self._steps()[step]
        if step == "norm" and self.norm_across_towers:
            together = act(gather(xs, self.tower_axis))
            return own_part(together, self._tower_indices(), self.towers)
        return [act(x) for x in xs]

    def _steps(self) -> dict[str, Callable[[Array], Array]]:
        windows = {
            "window": self.pool_window,
            "stride": self.pool_stride,
            "partial": self.pool_partial,
        }
        return {
            "activation": ACTIVATIONS[self.activation],
            "norm": functools.partial(
                lrn.local_response_norm,
                size=self.norm_size,
                k=self.norm_k,
                alpha=self.norm_alpha,
                beta=self.norm_beta,
            ),
            "same_map_norm": lrn.same_map_norm,
            "pool": functools.partial(pooling.max_pool, **windows),
            "average_pool": functools.partial(pooling.average_pool, **windows),
        }

    def _logits(self, name: str, xs: list[Array]) -> Float[Array, "batch classes"]:
        """Each tower's partial product, added over towers, and the one bias."""
        xs = flat(xs)
        shape = (xs[0].shape[-1], self.num_classes)
        kernels, bias = self._parameters(name, shape)(self._tower_indices())
        partial = [
            jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)
            for x, kernel in zip(xs, kernels, strict=True)
        ]
        logits = functools.reduce(jnp.add, partial)
        if self.tower_axis is not None:
            logits = lax.psum(logits, self.tower_axis)
        return add_bias(logits, bias)
