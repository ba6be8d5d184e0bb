"""What other tools call the layers of an AlexNet, and what a layer's values are.

Names of Caffe's and torchvision's layers stand for the same stage in any network of
five convolutions and three fully connected layers that has it; the values are this
network's. In torchvision `features.0` is the convolution itself, `conv1.linear`; its
own tensor is overwritten by the ReLU that follows, which works in place.
"""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.receptive_fields import receptive_fields
from alexnet_jax.runtime.errors import InputError


# torchvision's modules, as `create_feature_extractor` names them.
TORCHVISION = {
    "features.0": "conv1.linear",
    "features.1": "conv1",
    "features.2": "pool1",
    "features.3": "conv2.linear",
    "features.4": "conv2",
    "features.5": "pool2",
    "features.6": "conv3.linear",
    "features.7": "conv3",
    "features.8": "conv4.linear",
    "features.9": "conv4",
    "features.10": "conv5.linear",
    "features.11": "conv5",
    "features.12": "pool5",
    "avgpool": "pool5",
    "classifier.1": "fc6.linear",
    "classifier.2": "fc6",
    "classifier.4": "fc7.linear",
    "classifier.5": "fc7",
    "classifier.6": "fc8",
}
# Brain-Score's choice for torchvision's trained AlexNet (brain-score/vision,
# models/alexnet/region_layer_map/alexnet.json): features.2, 7, 7 and 12.
REGIONS = {"V1": "pool1", "V2": "conv3", "V4": "conv3", "IT": "pool5"}
REGIONS_FROM = (
    "V1, V2, V4 and IT are the layers that Brain-Score assigns to these regions of the "
    "macaque's visual cortex in torchvision's trained AlexNet. For another network it "
    "is a convention and says nothing of how well its layers predict a region"
)
# The names of the layers that these are for.
FIGURE_2 = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


class LayerSummary(NamedTuple):
    """What a layer's values are.

    Attributes:
      name: as in `AlexNet.features`.
      shape: of an image's values: rows x columns x channels, or one axis.
      receptive_field: side of the square of pixels that a unit sees; None for the whole
        image.
      stride: pixels between the squares of two neighbours; None as above.
      aliases: other names.
    """

    name: str
    shape: tuple[int, ...]
    receptive_field: int | None
    stride: int | None
    aliases: tuple[str, ...]


def aliases(model: AlexNet) -> dict[str, str]:
    """Other names of a network's layers, and the names in `model.features`."""
    activations = [name for name in model.layers if name in model.features]
    caffe = {
        f"relu{number}": name
        for number, name in enumerate(activations, start=1)
        if model.layers[name].then
    }
    others = {}
    if tuple(model.layers) == FIGURE_2:
        others = {**TORCHVISION, **REGIONS}
    known = {**caffe, **others}
    return {name: layer for name, layer in known.items() if layer in model.features}


def resolve(model: AlexNet, asked: Sequence[str]) -> list[str]:
    """The layers of a network that were asked for by any of their names; `all` is all.

    Raises:
      InputError: if there is no such layer, or one is asked for twice.
    """
    if list(asked) == ["all"]:
        return list(model.features)
    known = {name: name for name in model.features} | aliases(model)
    for name in asked:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
            near = close or list(model.features)
            raise InputError(
                f"no layer {name!r}; choose from {', '.join(near)}"
                + ("; --list shows all" if close else "")
            )
    layers = [known[name] for name in asked]
    for place, layer in enumerate(layers):
        if layer in layers[:place]:
            first = asked[layers.index(layer)]
            raise InputError(
                f"--layer names {layer} twice, as {first} and {asked[place]}; leave "
                "one out"
            )
    return layers


def summaries(model: AlexNet, crop: int) -> list[LayerSummary]:
    """Every layer of a network for images of `crop` pixels a side, in order."""
    variables = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, crop, crop, 3))
    )
    _, values = jax.eval_shape(
        lambda variables, images: model.apply(variables, images, layers=model.features),
        variables,
        jax.ShapeDtypeStruct((1, crop, crop, 3), jnp.float32),
    )
    fields, others = receptive_fields(model), aliases(model)
    found = []
    for name in model.features:
        field = fields[name]
        found.append(
            LayerSummary(
                name,
                values[name].shape[1:],
                None if field is None else field.size,
                None if field is None else field.step,
                tuple(alias for alias, layer in others.items() if layer == name),
            )
        )
    return found
