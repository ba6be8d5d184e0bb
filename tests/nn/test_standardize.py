import jax.numpy as jnp
import numpy as np

from alexnet_jax.nn.standardize import standardize


def test_each_image_has_mean_zero_and_variance_one():
    rng = np.random.default_rng(0)
    sizes = np.asarray([0.5, 20, 300], np.float32)[:, None, None, None]
    images = rng.normal(100, sizes, (3, 8, 6, 3)).astype(np.float32)
    found = np.asarray(standardize(jnp.asarray(images)), np.float64)
    expected = np.stack([(i - i.mean()) / i.std() for i in images.astype(np.float64)])
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_an_image_of_one_colour_becomes_zeros():
    found = standardize(jnp.full((2, 5, 5, 3), 77, jnp.float32))
    np.testing.assert_array_equal(found, 0)
    # One pixel of 1 and else nothing: divided by 1 / sqrt(75), no more.
    image = np.zeros((1, 5, 5, 3), np.float32)
    image[0, 2, 2, 1] = 0.5
    np.testing.assert_allclose(
        standardize(jnp.asarray(image)).max(), 0.5 * (1 - 1 / 75) * 75**0.5
    )
