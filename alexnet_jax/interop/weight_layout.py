"""A network's parameters as Caffe, PyTorch and ONNX lay them out, and back.

There, a convolution's kernels are kernels x channels x height x width, and the input of
the first fully connected layer is flattened channels first; here channels are last. A
group of theirs is a tower of ours. They scale what dropout keeps in training and not in
evaluation. Here it is the other way round, so an import divides the kernels behind
dropout by the fraction kept, and an export multiplies them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt16

from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import Conv, Local, Row
from alexnet_jax.runtime.errors import InputError


# Who made an exported file, and why it is not imported: a preset's pixels would be
# built into its first layer a second time.
PRODUCER = "alexnet_jax"
EXPORTED_HERE = (
    "was exported by alexnet_jax, and its first layer takes other pixels than the "
    "preset's own weights; use the run that it was exported from"
)


class Layer(NamedTuple):
    """A layer's arrays as Caffe and PyTorch have them.

    Attributes:
      name: in the file.
      kernel: kernels x channels (of their group) x height x width, or outputs x inputs.
      bias: one for each kernel or output.
    """

    name: str
    kernel: np.ndarray
    bias: np.ndarray


class Origin(NamedTuple):
    """How the network of a preset sees images.

    Attributes:
      crop: side of the square it takes, in pixels.
      bgr: whether its first channel is blue.
      mean: what is subtracted from RGB pixels of 0 to 255.
      deviations: what they are divided by.
      resize: how images become squares; see `decoding.RESIZES`.
    """

    crop: int
    bgr: bool
    mean: tuple[float, float, float]
    deviations: tuple[float, float, float]
    resize: str = "square"


def from_bfloat16(
    numbers: UInt16[np.ndarray, "*shape"],
) -> Float32[np.ndarray, "*shape"]:
    """The numbers whose bfloat16 form, the upper half of float32, is given as bits."""
    return (numbers.astype(np.uint32) << 16).view(np.float32)


def to_params(
    model: AlexNet, layers: Sequence[Layer], origin: Origin, *, where: str
) -> dict[str, dict[str, np.ndarray]]:
    """A network's parameters from the layers of another library's network.

    For networks whose fully connected layers see every tower.

    Args:
      model: the network that gets the parameters.
      layers: of the other network, in order.
      origin: how that network sees images.
      where: the file, for messages.

    Raises:
      InputError: naming the layer that differs.
    """
    _check_layers(model)
    crop = origin.crop
    expected = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, crop, crop, 3))
    )["params"]
    if len(layers) != len(model.layers):
        raise InputError(
            f"{where} has {len(layers)} layers with weights "
            f"({', '.join(layer.name for layer in layers)}), and the network has "
            f"{len(model.layers)}"
        )
    sides = model.sizes(crop) or []
    params = {}
    before: Row | None = None
    for (name, row), layer in zip(model.layers.items(), layers, strict=True):
        shape = expected[name]["kernel"].shape
        _check_layer(name, layer, _foreign_shape(row, shape), where)
        kernel = layer.kernel.astype(np.float32)
        if before is None:
            kernel = _for_our_pixels(kernel, origin)
        elif isinstance(before, Conv) and not isinstance(row, Conv):
            # Channels x height x width to height x width x channels.
            kernel = kernel.reshape(-1, before.channels, sides[-1], sides[-1])
            kernel = kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)
        if before is not None and "dropout" in before.then:
            kernel = kernel / np.float32(1 - model.dropout)
        params[name] = {
            "kernel": _by_tower(model, row, kernel).reshape(shape),
            "bias": layer.bias.astype(np.float32).reshape(expected[name]["bias"].shape),
        }
        before = row
    return params


def _check_layers(model: AlexNet) -> None:
    for name, row in model.layers.items():
        if isinstance(row, Local):
            raise InputError(
                f"{name} is locally connected, which weights of other libraries are "
                "not; only networks of convolutions and fully connected layers are "
                "imported and exported"
            )


def _check_layer(name: str, layer: Layer, needed: tuple[int, ...], where: str) -> None:
    if layer.kernel.shape != needed or layer.bias.shape != needed[:1]:
        raise InputError(
            f"{where} is of another network: layer {layer.name} has kernels of "
            f"{layer.kernel.shape} and {layer.bias.shape} biases, where {name} has "
            f"{needed} and {needed[:1]}"
        )
    if not (np.isfinite(layer.kernel).all() and np.isfinite(layer.bias).all()):
        raise InputError(f"{where}: layer {layer.name} has numbers not finite")


def _for_our_pixels(kernel: np.ndarray, origin: Origin) -> np.ndarray:
    """The first kernels for RGB pixels of 0 to 255, less the mean."""
    if origin.bgr:
        kernel = kernel[:, ::-1]
    deviations = np.asarray(origin.deviations, np.float32)
    return kernel / deviations[None, :, None, None]


def _foreign_shape(row: Row, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a layer's kernels in the other layout, from the shape in ours."""
    if isinstance(row, Conv):
        towers, height, width, channels, kernels = shape
        return towers * kernels, channels, height, width
    towers, inputs, outputs = shape
    if row.width is None:
        return outputs, towers * inputs
    return towers * outputs, inputs


def _by_tower(model: AlexNet, row: Row, kernel: np.ndarray) -> np.ndarray:
    """Towers first, inputs before outputs."""
    towers = model.towers
    if isinstance(row, Conv):
        by_tower = kernel.reshape(towers, -1, *kernel.shape[1:])
        return by_tower.transpose(0, 3, 4, 2, 1)
    if row.width is None:
        # Each tower has the product of its own inputs.
        return kernel.reshape(len(kernel), towers, -1).transpose(1, 2, 0)
    return kernel.reshape(towers, -1, kernel.shape[-1]).transpose(0, 2, 1)


def from_params(
    model: AlexNet, params: Mapping[str, Mapping[str, np.ndarray]], crop: int
) -> list[Layer]:
    """The layers in the other layout: what `to_params` takes, for the same pixels.

    A fully connected layer whose towers do not see each other has zeros between them.

    Raises:
      InputError: if the network has a locally connected layer.
    """
    _check_layers(model)
    sides = model.sizes(crop) or []
    layers = []
    before: Row | None = None
    for name, row in model.layers.items():
        kernel = np.asarray(params[name]["kernel"], np.float32)
        if isinstance(row, Conv):
            kernel = kernel.transpose(0, 4, 3, 1, 2)
            kernel = kernel.reshape(-1, *kernel.shape[2:])
        else:
            kernel = kernel.transpose(0, 2, 1)
            if isinstance(before, Conv):
                # Height x width x channels to channels x height x width.
                by_place = (*kernel.shape[:2], sides[-1], sides[-1], -1)
                kernel = kernel.reshape(by_place).transpose(0, 1, 4, 2, 3)
                kernel = kernel.reshape(*kernel.shape[:2], -1)
            kernel = _one_matrix(
                kernel, sees_all=row.exchange, is_last=row.width is None
            )
        if before is not None and "dropout" in before.then:
            kernel = kernel * np.float32(1 - model.dropout)
        bias = np.asarray(params[name]["bias"], np.float32).reshape(-1)
        layers.append(Layer(name, np.ascontiguousarray(kernel), bias))
        before = row
    return layers


def _one_matrix(kernel: np.ndarray, *, sees_all: bool, is_last: bool) -> np.ndarray:
    """Outputs x inputs of all towers together."""
    towers, outputs, inputs = kernel.shape
    if is_last:
        return kernel.transpose(1, 0, 2).reshape(outputs, -1)
    if towers == 1 or sees_all:
        return kernel.reshape(-1, inputs)
    whole = np.zeros((towers, outputs, towers, inputs), np.float32)
    for tower in range(towers):
        whole[tower, :, tower] = kernel[tower]
    return whole.reshape(towers * outputs, towers * inputs)
