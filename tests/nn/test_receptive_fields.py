"""The pixels that a unit sees, against what changes it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.nn.layers import changed
from alexnet_jax.nn.presets import CODE2012, PRESETS
from alexnet_jax.nn.receptive_fields import receptive_fields

from networks import TINY, tiny


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", ["code2012", pytest.param("owt", marks=pytest.mark.extended)]
)
def test_a_unit_sees_its_box_and_nothing_else(preset):
    """On a blank image all values of a map are equal, and a maximum passes gradients to
    all of them: every edge of the box is reached, and no pixel outside of it."""
    settings = dict(PRESETS[preset])
    layers = changed(settings.pop("layers", CODE2012), **TINY)
    biased = changed(layers, conv1={"bias": 1.0}, conv2={"bias": 1.0})
    model = tiny(**settings, layers=biased, activation="tanh")
    side = 227 - model.image_padding
    blank = jnp.zeros((1, side, side, 3))
    variables = jax.jit(model.init)(jax.random.key(1), blank)
    field = receptive_fields(model)["conv3"]
    assert field is not None

    def value(images):
        outputs: Any = model.apply(variables, images, layers="conv3")
        kept = outputs[1]
        return kept["conv3"][0, 6, 5].sum()

    gradient = np.abs(np.asarray(jax.jit(jax.grad(value))(blank))[0]).sum(axis=-1)
    rows = np.flatnonzero(gradient.any(axis=1))
    columns = np.flatnonzero(gradient.any(axis=0))
    top, left, bottom, right = field.box(6, 5)
    assert (rows[0], columns[0]) == (top, left)
    assert (rows[-1], columns[-1]) == (bottom - 1, right - 1)


def test_the_fields_of_the_paper():
    """By hand: conv1 11, pool1 19, conv2 51, its second norm 83, ..."""
    plain = receptive_fields(tiny(layers=changed(PRESETS["paper"]["layers"], **TINY)))
    sizes = {name: field and (field.size, field.step) for name, field in plain.items()}
    assert sizes["conv1"] == (11, 4)
    assert sizes["pool1"] == (19, 8)
    assert sizes["conv2"] == (51, 8)
    assert sizes["pool2"] == (67, 16)
    assert (sizes["conv3"], sizes["conv4"], sizes["conv5"]) == (
        (99, 16),
        (131, 16),
        (163, 16),
    )
    assert sizes["pool5"] == (195, 32)
    own = receptive_fields(tiny())
    assert list(own) == list(tiny().features)
    assert own["fc6"] is None
    norm2, conv2 = own["norm2"], own["conv2"]
    assert norm2 is not None and conv2 is not None
    assert (norm2.size, norm2.start, conv2.start) == (83, -32, -16)
