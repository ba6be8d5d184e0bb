"""Images as Python users have them: taken where it is certain what they mean."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import decoding
from alexnet_jax.inference.image_input import stored
from alexnet_jax.runtime.errors import InputError


SIZE = 20
PIXELS = np.random.default_rng(0).integers(0, 256, (31, 27, 3), np.uint8)
GREY = PIXELS[..., 0]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "cat.png"
    Image.fromarray(PIXELS).save(path)
    return path


def expected(pixels=PIXELS):
    return decoding.prepared(Image.fromarray(pixels), SIZE)


def test_one_image_is_a_batch_of_one(file):
    image = Image.fromarray(PIXELS)
    for given in (file, str(file), image, PIXELS, jnp.asarray(PIXELS)):
        np.testing.assert_array_equal(stored(given, SIZE), expected()[None])


def test_several_images_of_any_kind(file):
    kinds = [file, str(file), Image.fromarray(PIXELS), PIXELS, PIXELS.astype(np.int64)]
    for given in (kinds, tuple(kinds), iter(kinds)):
        result = stored(given, SIZE)
        np.testing.assert_array_equal(result, np.stack([expected()] * 5))
    names = np.asarray([str(file)] * 2)
    for given in (np.stack([PIXELS] * 2), names, names.astype(object)):
        result = stored(given, SIZE)
        np.testing.assert_array_equal(result, np.stack([expected()] * 2))
    assert stored([], SIZE).shape == (0, SIZE, SIZE, 3)


def test_grey_and_transparent_arrays():
    opaque = np.dstack([PIXELS, np.full(GREY.shape, 255, np.uint8)])
    np.testing.assert_array_equal(stored([opaque], SIZE)[0], expected())
    for given in ([GREY], GREY, GREY[..., None]):
        np.testing.assert_array_equal(stored(given, SIZE)[0], expected(GREY))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([PIXELS / 255], r"float64 has no certain range; give uint8 .*255 \* image"),
        (PIXELS.astype(np.float32), "float32 has no certain range"),
        ([PIXELS.astype(np.int64) - 1], "int64 has no certain range"),
        ([GREY.astype(np.uint16)], "uint16 has no certain range"),
        ([GREY > 9], "bool has no certain range"),
        (
            [PIXELS.transpose(2, 0, 1)],
            r"\(3, 31, 27\); put the channels last: image.tr",
        ),
        (PIXELS.transpose(2, 0, 1), r"\(3, 31, 27\); put the channels last"),
        (np.stack([GREY] * 9), r"\(9, 31, 27\)$"),
        ([PIXELS[:0]], r"\(0, 27, 3\)$"),
        (PIXELS[0, 0], r"\(3,\)$"),
        (b"bytes", "and not bytes"),
        ([None], "and not NoneType"),
        (5, "and not int"),
        ("no.jpg", "no.jpg is not a file"),
        (Path(), r"\. is not a file"),
        (Image.new("F", (9, 9)), "can't be read .pixels of mode F"),
    ],
)
def test_what_is_in_doubt_is_refused_in_one_line(given, message):
    with pytest.raises(InputError, match=message) as refused:
        stored(given, SIZE)
    assert "\n" not in str(refused.value)
