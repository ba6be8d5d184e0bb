"""Why a network gives an image a class: pure functions of a network and an image.

All take the network as `Explained`, its variables, and network input: RGB of 0 to 255
less the mean image. They run on one device, without a mesh, in float32.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from alexnet_jax.nn import pooling
from alexnet_jax.nn.alexnet import AlexNet


Variables = dict[str, Any]
Input = Float[np.ndarray, "crop crop 3"]
# Values that are added to a layer's activations, by layer; see `Explained`.
OFFSETS = "offsets"
# Smilkov et al. 2017 (1706.03825): images, and the noise's deviation as a fraction of
# the range of pixels.
SAMPLES, NOISE = 25, 0.15
PIXEL_RANGE = 255.0


@jax.custom_vjp
def guided_relu(x: Array) -> Array:
    """ReLU with the derivative of guided backpropagation (Springenberg et al. 2014,
    1412.6806): a gradient passes where the value and it are both above zero."""
    return jax.nn.relu(x)


def _guided_forward(x: Array) -> tuple[Array, Array]:
    return jax.nn.relu(x), x


def _guided_backward(x: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where((x > 0) & (gradient > 0), gradient, 0),)


guided_relu.defvjp(_guided_forward, _guided_backward)


class Explained(AlexNet):
    """A network whose activations can be shifted, to differentiate by them, and whose
    ReLU can have another derivative. Without either it computes what `AlexNet` does.

    Of several maxima in a pooling window the first alone has the gradient. The zeros of
    a sparse map tie, and behind a shift no ReLU takes their gradients away: each window
    of them would count nine times.

    A collection `offsets` beside `params` holds arrays by layer, with a leading axis of
    towers, which are added to that layer's activations.

    Attributes:
      guided: whether ReLU has the derivative of `guided_relu`.
    """

    guided: bool = False

    @classmethod
    def of(cls, model: AlexNet) -> "Explained":
        """The same network, in float32."""
        own = {
            field.name: getattr(model, field.name)
            for field in dataclasses.fields(AlexNet)
            if field.name not in ("parent", "name")
        }
        # A fused kernel would take the activations along.
        return cls(**{**own, "dtype": "float32", "implementation": "xla"})

    def _after(self, name: str, step: str, xs: list[Array]) -> list[Array]:
        if step != "activation":
            return super()._after(name, step, xs)
        if self.guided:
            xs = [guided_relu(x) for x in xs]
        else:
            xs = super()._after(name, step, xs)
        if self.has_variable(OFFSETS, name):
            offsets = self.get_variable(OFFSETS, name)
            xs = [x + offset for x, offset in zip(xs, offsets, strict=True)]
        return xs

    def _steps(self) -> dict[str, Callable[[Array], Array]]:
        pool = functools.partial(
            pooling.pool_by_xla,
            window=self.pool_window,
            stride=self.pool_stride,
            partial=self.pool_partial,
        )
        return {**super()._steps(), "pool": pool}


def probabilities(
    model: Explained,
    variables: Variables,
    images: Float[np.ndarray, "batch crop crop 3"],
) -> Float[np.ndarray, "batch classes"]:
    """What the network gives each class."""
    return np.asarray(_probabilities(model, variables, images))


def activations(
    model: Explained, variables: Variables, image: Input, layers: Sequence[str]
) -> dict[str, Float[np.ndarray, "..."]]:
    """The outputs of layers for an image, by name, towers side by side in the last
    axis: height x width x channels, or width alone."""
    kept = _features(model, variables, image[None], tuple(layers))
    return {name: np.asarray(kept[name][0]) for name in layers}


def gradient(
    model: Explained, variables: Variables, image: Input, label: int
) -> Float[np.ndarray, "crop crop 3"]:
    """The derivative of a class's logit by the pixels (Simonyan et al. 2013,
    1312.6034); with `model.guided` by guided backpropagation."""
    return np.asarray(_gradients(model, variables, image[None], label)[0])


def smooth_gradient(
    model: Explained,
    variables: Variables,
    image: Input,
    label: int,
    *,
    samples: int = SAMPLES,
    noise: float = NOISE,
    seed: int = 0,
) -> Float[np.ndarray, "crop crop 3"]:
    """SmoothGrad: the mean of `gradient` over copies of the image with normal noise,
    whose deviation is this fraction of the range of pixels."""
    rng = np.random.default_rng(seed)
    total = np.zeros(image.shape, np.float64)
    for _ in range(samples):
        drawn = rng.standard_normal(image.shape, np.float32)
        total += gradient(model, variables, image + noise * PIXEL_RANGE * drawn, label)
    return (total / samples).astype(np.float32)


def strength(
    gradients: Float[np.ndarray, "crop crop 3"],
) -> Float[np.ndarray, "crop crop"]:
    """The largest size of a gradient over the three colours."""
    return np.abs(gradients).max(axis=-1)


def grad_cam(
    model: Explained, variables: Variables, image: Input, label: int, layer: str
) -> Float[np.ndarray, "height width"]:
    """Grad-CAM at a convolution (Selvaraju et al. 2016, 1610.02391).

    The layer's maps, each weighted by the mean derivative of the class's logit by it,
    summed over both towers; what is below zero becomes zero.
    """
    return np.asarray(_grad_cam(model, variables, image[None], label, layer))


def occlusion_places(crop: int, patch: int, stride: int) -> Int[np.ndarray, " places"]:
    """Where patches begin along a side: every `stride` pixels, and at the border."""
    places = np.arange(0, crop - patch + 1, stride)
    last = crop - patch
    return places if places[-1] == last else np.append(places, last)


def occlusion(
    model: Explained,
    variables: Variables,
    image: Input,
    label: int,
    *,
    patch: int,
    stride: int,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda count: None,
) -> Float[np.ndarray, "places places"]:
    """A class's probability while a square of the image is covered with the mean image
    (Zeiler and Fergus 2013, 1311.2901).

    Args:
      patch: the square's side, in pixels.
      stride: distance between squares; they begin at `occlusion_places`.
      batch_size: squares at a time.
      advance: called with the number of squares just done.
    """
    places = occlusion_places(image.shape[0], patch, stride)
    corners = [*itertools.product(places.tolist(), repeat=2)]
    found = []
    for group in _groups(corners, batch_size):
        # Full size even at the end: the network is compiled for a single shape.
        covered = np.repeat(image[None], batch_size, axis=0)
        for one, (row, column) in zip(covered, group, strict=False):
            one[row : row + patch, column : column + patch] = 0
        values = _probabilities(model, variables, covered)[:, label]
        found.append(np.asarray(values)[: len(group)])
        advance(len(group))
    return np.concatenate(found).reshape(len(places), len(places))


def _groups(
    items: Sequence[tuple[int, int]], size: int
) -> Iterator[Sequence[tuple[int, int]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(model: Explained, variables: Variables, images: Array) -> Array:
    logits = model.apply(variables, images)
    assert isinstance(logits, Array)
    return jax.nn.softmax(logits)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _features(
    model: Explained, variables: Variables, images: Array, layers: tuple[str, ...]
) -> dict[str, Array]:
    outputs: Any = model.apply(variables, images, layers=layers)
    return outputs[1]


@functools.partial(jax.jit, static_argnums=0)
def _gradients(
    model: Explained, variables: Variables, images: Array, label: int | Array
) -> Array:
    def score(images: Array) -> Array:
        logits: Any = model.apply(variables, images)
        return logits[:, label].sum()

    return jax.grad(score)(images)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _grad_cam(
    model: Explained,
    variables: Variables,
    images: Array,
    label: int | Array,
    layer: str,
) -> Array:
    def score(offsets: Array) -> tuple[Array, Array]:
        shifted = {**variables, OFFSETS: {layer: offsets}}
        outputs: Any = model.apply(shifted, images, layers=layer)
        return outputs[0][0, label], outputs[1][layer]

    def maps(variables: Variables) -> Array:
        outputs: Any = model.apply(variables, images, layers=layer)
        return outputs[1][layer]

    # A tower's maps, with its axis first.
    _, height, width, channels = jax.eval_shape(maps, variables).shape
    shape = (model.towers, 1, height, width, channels // model.towers)
    by_offset, values = jax.grad(score, has_aux=True)(jnp.zeros(shape, jnp.float32))
    weights = by_offset.mean(axis=(1, 2, 3)).reshape(-1)
    return jax.nn.relu((values[0] * weights[None, None]).sum(axis=-1))
