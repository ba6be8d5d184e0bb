"""Operations on training crops, against Pillow's."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from alexnet_jax.data.loading.later_recipes import OPERATIONS
from alexnet_jax.training.operations import operate


SIZE = 24
GREY = (128, 128, 128)


def images():
    """Smooth ones, on which interpolation is nearly exact, and one of noise."""
    rng = np.random.default_rng(0)
    waves = np.linspace(0, 3, SIZE)
    row, column, colour = np.meshgrid(waves, waves, np.arange(3), indexing="ij")
    smooth = 120 + 90 * np.sin(row + colour) * np.cos(column)
    noise = rng.integers(30, 200, (SIZE, SIZE, 3))
    return np.stack([smooth, noise]).astype(np.uint8)


def moved(image, forward, backward, constant):
    """Pillow's map of an output's pixel to the input's, around the middle."""
    (a, b), (c, d) = forward, backward
    middle = SIZE / 2
    e = middle - a * middle - b * middle + constant[0] * SIZE
    f = middle - c * middle - d * middle + constant[1] * SIZE
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        (a, b, e, c, d, f),
        Image.Resampling.BILINEAR,
        fillcolor=GREY,
    )


def turned(image, s):
    angle = np.deg2rad(30 * s)
    cos, sin = np.cos(angle), np.sin(angle)
    return moved(image, (cos, sin), (-sin, cos), (0, 0))


PILLOW = {
    "identity": lambda image, s: image,
    "autocontrast": lambda image, s: ImageOps.autocontrast(image),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(1 + 0.9 * s),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(1 + 0.9 * s),
    "saturation": lambda image, s: ImageEnhance.Color(image).enhance(1 + 0.9 * s),
    "posterize": lambda image, s: ImageOps.posterize(image, 8 - round(4 * abs(s))),
    "solarize": lambda image, s: ImageOps.solarize(image, round(256 * (1 - abs(s)))),
    "rotate": turned,
    "shear_x": lambda image, s: moved(image, (1, 0.3 * s), (0, 1), (0, 0)),
    "shear_y": lambda image, s: moved(image, (1, 0), (0.3 * s, 1), (0, 0)),
    "translate_x": lambda image, s: moved(image, (1, 0), (0, 1), (0.45 * s, 0)),
    "translate_y": lambda image, s: moved(image, (1, 0), (0, 1), (0, 0.45 * s)),
}
GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


@pytest.fixture(scope="module")
def run():
    """One program for all."""
    return jax.jit(operate)


def ours(run, *steps):
    """Both images after some operations of some strengths, in turn."""
    names, strengths = zip(*steps, strict=True)
    which = np.asarray([[OPERATIONS.index(name) for name in names]] * 2, np.int32)
    return np.asarray(run(images(), which, np.asarray([strengths] * 2, np.float32)))


def theirs(*steps):
    found = []
    for array in images():
        image = Image.fromarray(array)
        for name, strength in steps:
            image = PILLOW[name](image, strength)
        found.append(np.asarray(image))
    return np.stack(found)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(run, name):
    """To a level of rounding; a pixel on the border may fall to either side of it."""
    assert set(PILLOW) == set(OPERATIONS)
    for strength in (-0.75, 0.5):
        found = ours(run, (name, strength), ("identity", 0.5)).astype(int)
        expected = theirs((name, strength)).astype(int)
        apart = np.abs(found - expected).max(axis=-1)
        assert (apart > 1).sum() <= (SIZE if name in GEOMETRY else 0)
        if name != "identity":
            assert (found != images()).any()


def test_two_operations_follow_each_other_geometry_first(run):
    pairs = [
        (("solarize", 0.5), ("brightness", 0.5)),
        (("brightness", 0.5), ("solarize", 0.5)),
        (("solarize", 0.5), ("translate_x", 0.5)),
    ]
    for steps in pairs:
        expected = theirs(*sorted(steps, key=lambda step: step[0] not in GEOMETRY))
        if steps[1][0] == "translate_x":
            assert (theirs(*steps) != expected).any()
        found = ours(run, *steps).astype(int)
        assert (np.abs(found - expected).max(axis=-1) > 1).mean() < 0.02
    # Two maps, interpolated once: smooth images, away from the borders.
    steps = (("translate_x", 0.4), ("rotate", 1.0))
    expected = theirs(*steps).astype(int)
    apart, backwards = (
        np.abs(ours(run, *order).astype(int) - expected)[0, 8:-8, 8:-8].mean()
        for order in (steps, steps[::-1])
    )
    assert 3 * apart < backwards
