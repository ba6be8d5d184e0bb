"""Explanations against direct computations: squares by hand, finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.analysis import explanations
from alexnet_jax.analysis.explanations import Explained, guided_relu

from networks import features_of, logits_of, tiny


SIDE, LABEL = 67, 3


@pytest.fixture(scope="module")
def model():
    # Kernels large enough for the digits of finite differences.
    rows = {f"fc{n}": {"kernel_std": 0.3} for n in (6, 7, 8)}
    return tiny({**rows, "conv5": {"kernel_std": 0.2}})


@pytest.fixture(scope="module")
def variables(model):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))


def image_of(side):
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 60, (17, 17, 3)).astype(np.float32)
    return np.kron(coarse, np.ones((6, 6, 1), np.float32))[:side, :side]


@pytest.fixture(scope="module")
def image():
    return image_of(SIDE)


@pytest.mark.slow
@pytest.mark.extended
def test_without_offsets_it_is_the_same_network(model, variables, image):
    explained = Explained.of(model.clone(dtype="bfloat16"))
    own = explanations.probabilities(explained, variables, image[None])
    expected = jax.nn.softmax(logits_of(model, variables, image[None]))
    np.testing.assert_allclose(own, expected, rtol=1e-6)
    kept = explanations.activations(explained, variables, image, ("conv2", "fc7"))
    _, by_hand = features_of(model, variables, image[None], ("conv2", "fc7"))
    for layer, values in kept.items():
        np.testing.assert_allclose(values, by_hand[layer][0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_occlusion_is_that_of_squares_covered_by_hand(model, variables, image):
    patch, stride = 20, 18
    found = explanations.occlusion(
        Explained.of(model),
        variables,
        image,
        LABEL,
        patch=patch,
        stride=stride,
        batch_size=7,
    )
    # The last square ends at the border.
    places = [0, 18, 36, 47]
    assert explanations.occlusion_places(SIDE, patch, stride).tolist() == places
    covered = []
    for row in places:
        for column in places:
            one = image.copy()
            one[row : row + patch, column : column + patch] = 0
            covered.append(one)
    logits = logits_of(model, variables, np.stack(covered))
    expected = jax.nn.softmax(logits)[:, LABEL].reshape(4, 4)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.ptp(found) > 1e-4


@pytest.mark.slow
def test_the_gradient_is_that_of_finite_differences(model, variables, image):
    explained = Explained.of(model)
    found = explanations.gradient(explained, variables, image, LABEL)
    rng = np.random.default_rng(1)
    for _ in range(4):
        # Along the gradient's own sign where it is large: most of it, and few kinks.
        direction = np.sign(found) * rng.random(image.shape, np.float32)
        ends = np.stack([image + 0.02 * direction, image - 0.02 * direction])
        plus, minus = logits_of(model, variables, ends)[:, LABEL]
        slope = float(plus - minus) / 0.04
        assert slope == pytest.approx(float((found * direction).sum()), rel=0.02)


@pytest.mark.slow
@pytest.mark.extended
def test_smooth_gradient_is_the_mean_over_noisy_copies(model, variables, image):
    explained = Explained.of(model)
    about = (explained, variables, image, LABEL)
    smooth = explanations.smooth_gradient(*about, samples=3, noise=0.1, seed=5)
    rng = np.random.default_rng(5)
    copies = [
        image + 25.5 * rng.standard_normal(image.shape, np.float32) for _ in range(3)
    ]
    of_copies = [
        explanations.gradient(explained, variables, copy, LABEL) for copy in copies
    ]
    np.testing.assert_allclose(smooth, np.mean(of_copies, axis=0), rtol=1e-4, atol=1e-7)
    again = explanations.smooth_gradient(*about, samples=3, noise=0.1, seed=5)
    np.testing.assert_array_equal(smooth, again)
    other = explanations.smooth_gradient(*about, samples=3, noise=0.1, seed=6)
    assert not np.array_equal(smooth, other)


@pytest.mark.slow
def test_grad_cam_is_that_of_finite_differences(model):
    """The derivative by a whole map, from logits with something added to the map, most
    of whose windows are zeros behind a ReLU, as in a trained network."""
    explained, image = Explained.of(model), image_of(99)
    variables = jax.jit(model.init)(jax.random.key(0), image[None])
    bias = variables["params"]["conv5"]["bias"]
    variables["params"]["conv5"]["bias"] = bias + 1000
    _, kept = features_of(model, variables, image[None], "conv5")
    least = float(np.quantile(kept["conv5"], 0.9))
    variables["params"]["conv5"]["bias"] = bias + 1000 - least
    cams = [
        explanations.grad_cam(explained, variables, image, label, "conv5")
        for label in range(5)
    ]
    _, kept = features_of(model, variables, image[None], "conv5")
    values = np.asarray(kept["conv5"][0])
    height, width, channels = values.shape
    assert (height, width) == (5, 5)
    apply = jax.jit(explained.apply)
    step, weights = 1e-2, []
    for channel in range(channels):
        tower, own = divmod(channel, channels // 2)
        ends = []
        for sign in (1, -1):
            offsets = np.zeros((2, 1, height, width, channels // 2), np.float32)
            offsets[tower, ..., own] = sign * step
            shifted = {**variables, "offsets": {"conv5": offsets}}
            ends.append(np.asarray(apply(shifted, image[None])[0]))
        weights.append((ends[0] - ends[1]) / (2 * step) / (height * width))
    expected = np.maximum(np.moveaxis(values @ np.stack(weights), -1, 0), 0)
    assert expected.max() > 0
    np.testing.assert_allclose(cams, expected, atol=0.02 * expected.max())


def test_guided_backpropagation_passes_what_is_above_zero_twice():
    x = jnp.array([-1.0, 2.0, 3.0, 0.0])
    gradient = jnp.array([5.0, -6.0, 7.0, 8.0])
    value, back = jax.vjp(guided_relu, x)
    np.testing.assert_array_equal(value, [0, 2, 3, 0])
    np.testing.assert_array_equal(back(gradient)[0], [0, 0, 7, 0])


@pytest.mark.slow
@pytest.mark.extended
def test_guided_backpropagation_goes_through_every_relu(image):
    """Without norms and kernels below zero no gradient is ever below zero, and it is
    the network's own; with both signs it is another."""
    plain = {"then": ("activation", "pool")}
    model = Explained.of(tiny({"conv1": plain, "conv2": plain}))
    variables = jax.jit(model.init)(jax.random.key(0), image[None])
    positive = jax.tree.map(abs, variables)
    guided = model.clone(guided=True)
    own = explanations.gradient(model, positive, image, LABEL)
    same = explanations.gradient(guided, positive, image, LABEL)
    assert np.abs(own).max() > 0
    np.testing.assert_allclose(same, own, atol=1e-5 * np.abs(own).max())
    own = explanations.gradient(model, variables, image, LABEL)
    other = explanations.gradient(guided, variables, image, LABEL)
    assert np.abs(own - other).max() > 0.1 * np.abs(own).max()
