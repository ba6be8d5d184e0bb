"""The convolution and its derivatives against a loop over pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.nn import convolution


# Height, width, side of the kernel, stride.
SHAPES = [
    (7, 7, 3, 1),
    (6, 9, 5, 1),
    (5, 4, 1, 1),
    (19, 19, 11, 4),
    (16, 23, 11, 4),
    (10, 11, 5, 2),
    (9, 8, 2, 3),
]


def loop(x, kernel, stride):
    """A convolution written out, and a function from `dy` to its two gradients."""
    side = kernel.shape[0]
    before = 0 if stride > 1 else side // 2
    lengths = []
    for length in x.shape[1:3]:
        behind = (side - length) % stride if stride > 1 else side // 2
        lengths.append((before + length + behind - side) // stride + 1)
    y = np.zeros((x.shape[0], *lengths, kernel.shape[-1]))
    places = []
    for row, column in np.ndindex(*lengths):
        for i, j in np.ndindex(side, side):
            above, left = row * stride + i - before, column * stride + j - before
            if 0 <= above < x.shape[1] and 0 <= left < x.shape[2]:
                places.append((row, column, i, j, above, left))
                y[:, row, column] += x[:, above, left] @ kernel[i, j]

    def gradients(dy):
        dx, dkernel = np.zeros_like(x), np.zeros_like(kernel)
        for row, column, i, j, above, left in places:
            dx[:, above, left] += dy[:, row, column] @ kernel[i, j].T
            dkernel[i, j] += x[:, above, left].T @ dy[:, row, column]
        return dx, dkernel

    return y, gradients


def example(height, width, side):
    rng = np.random.default_rng(side)
    return (
        rng.normal(size=(3, height, width, 4)),
        rng.normal(size=(side, side, 4, 5)),
        rng,
    )


def distance(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


@pytest.mark.parametrize(("height", "width", "side", "stride"), SHAPES)
def test_values_and_gradients_equal_a_loop(height, width, side, stride):
    x, kernel, rng = example(height, width, side)
    y, gradients = loop(x, kernel, stride)
    dy = rng.normal(size=y.shape)

    ours, pull = jax.vjp(
        functools.partial(convolution.convolve, stride=stride),
        jnp.asarray(x, jnp.float32),
        jnp.asarray(kernel, jnp.float32),
    )
    assert ours.shape == y.shape
    assert distance(ours, y) < 1e-6
    for mine, by_hand in zip(
        pull(jnp.asarray(dy, jnp.float32)), gradients(dy), strict=True
    ):
        assert distance(mine, by_hand) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("height", "width", "side", "stride"), SHAPES)
def test_both_ways_to_the_kernel_gradient_agree(height, width, side, stride, dtype):
    """So they do wherever a platform takes the one or the other."""
    x, kernel, rng = example(height, width, side)
    y, gradients = loop(x, kernel, stride)
    dy = rng.normal(size=y.shape)
    x, narrow, kernel = (jnp.asarray(array, dtype) for array in (x, dy, kernel))
    tolerance = 1e-6 if dtype == "float32" else 1e-2
    for way in (
        convolution.kernel_gradient_by_taps,
        convolution.kernel_gradient_by_convolution,
    ):
        gradient = way(x, kernel, narrow, stride=stride)
        assert gradient.dtype == dtype
        assert distance(gradient, gradients(dy)[1]) < tolerance


def test_the_platform_decides_the_way(monkeypatch):
    x, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 2))

    def loss(kernel):
        return convolution.convolve(x, kernel, 1).sum()

    lowered = jax.jit(jax.grad(loss)).trace(kernel)
    windows = {
        platform: lowered.lower(lowering_platforms=(platform,))
        .as_text()
        .count("stablehlo.dot_general")
        for platform in ("cpu", "cuda", "tpu")
    }
    assert windows["cpu"] > 0
    assert windows["cuda"] == windows["tpu"] == 0
