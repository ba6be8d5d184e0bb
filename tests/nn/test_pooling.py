import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.nn import lrn, pooling
from alexnet_jax.nn.pooling import average_pool, max_pool, pooled_size

from networks import as_on_a_tpu, lowered, on_this_device
from references import pool_loop, windows


# Section 3.4: overlapping windows.
papers_pool = functools.partial(max_pool, window=3, stride=2)


def with_gradient(pool):
    """A function from features and the output's gradient to output and gradient."""

    def run(x, g):
        y, pull_back = jax.vjp(pool, x)
        return y, pull_back(g)[0]

    return run


def gradient_loop(x, g, window, stride, partial):
    """Every value equal to its window's maximum gets the window's gradient."""
    total = np.zeros(x.shape, np.float64)
    rows = windows(x.shape[1], window, stride, partial)
    columns = windows(x.shape[2], window, stride, partial)
    y = pool_loop(x, window, stride, partial)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            for r in row:
                for c in column:
                    hit = x[:, r, c] == y[:, i, j]
                    total[:, r, c] += np.where(hit, g[:, i, j], 0)
    return total


SHAPES = [
    ((2, 15, 15, 3), 3, 2, False),
    ((1, 7, 13, 2), 3, 2, False),
    ((2, 14, 12, 2), 3, 2, False),
    ((2, 14, 13, 2), 3, 2, True),
    ((1, 28, 14, 2), 3, 2, True),
    ((1, 9, 12, 2), 2, 2, False),
    ((1, 9, 12, 2), 2, 2, True),
    ((1, 9, 11, 2), 5, 3, True),
]


@pytest.mark.parametrize(
    ("shape", "window", "stride", "partial"), [SHAPES[2], SHAPES[3], SHAPES[7]]
)
def test_a_mean_is_of_the_values_inside_and_gives_each_its_part(
    shape, window, stride, partial
):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    rows, columns = (windows(n, window, stride, partial) for n in shape[1:3])
    g = rng.normal(size=(shape[0], len(rows), len(columns), shape[3])).astype("f4")
    expected, gradient = np.zeros(g.shape), np.zeros(shape)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            inside = np.ix_(range(shape[0]), row, column)
            expected[:, i, j] = x[inside].mean(axis=(1, 2))
            gradient[inside] += g[:, None, None, i, j] / (len(row) * len(column))
    pool = functools.partial(
        average_pool, window=window, stride=stride, partial=partial
    )
    y, dx = on_this_device(with_gradient(pool), x, g)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "window", "stride", "partial"), SHAPES)
@pytest.mark.parametrize("computed", [on_this_device, as_on_a_tpu])
def test_equals_a_literal_loop_and_so_does_its_derivative(
    shape, window, stride, partial, computed
):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = pool_loop(x, window, stride, partial)
    g = np.random.default_rng(1).standard_normal(expected.shape).astype(np.float32)
    how = {"window": window, "stride": stride, "partial": partial}
    y, derivative = computed(with_gradient(functools.partial(max_pool, **how)), x, g)
    np.testing.assert_array_equal(y, expected)
    expected = gradient_loop(x, g, window, stride, partial)
    np.testing.assert_allclose(derivative, expected, atol=1e-6)
    assert y.shape[1] == pooled_size(
        shape[1], window=window, stride=stride, partial=partial
    )


def test_derivative_equals_central_differences():
    # A shuffle of well separated values: no step of the difference changes a maximum.
    x = np.random.default_rng(2).permutation(7 * 9 * 2).reshape(1, 7, 9, 2)
    x = x.astype(np.float64)
    g = np.random.default_rng(3).standard_normal((1, 3, 4, 2))
    _, pull_back = jax.vjp(papers_pool, jnp.asarray(x, jnp.float32))
    (derivative,) = pull_back(jnp.asarray(g, jnp.float32))
    expected = np.empty(x.shape)
    for place in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[place] += 0.25
        below[place] -= 0.25
        difference = pool_loop(above, 3, 2, False) - pool_loop(below, 3, 2, False)
        expected[place] = (difference * g).sum() / 0.5
    assert np.abs(derivative - expected).max() <= 1e-6 * np.abs(expected).max()


def test_in_float32_every_tied_maximum_gets_the_whole_gradient():
    x = jnp.zeros((1, 3, 3, 1)).at[0, 0, 0, 0].set(5.0).at[0, 2, 1, 0].set(5.0)
    gradient = jax.grad(lambda x: 7 * papers_pool(x)[0, 0, 0, 0])(x)
    expected = np.zeros((3, 3))
    expected[0, 0] = expected[2, 1] = 7
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


@pytest.mark.parametrize(
    ("computed", "dtype", "size", "partial"),
    [
        (on_this_device, jnp.bfloat16, 9, False),
        (on_this_device, jnp.bfloat16, 10, True),
        (on_this_device, jnp.float16, 9, False),
        # Whole windows: beside padding XLA on a CPU takes others of equal maxima.
        (as_on_a_tpu, jnp.bfloat16, 9, False),
        (as_on_a_tpu, jnp.float32, 9, False),
    ],
)
def test_in_half_precision_and_on_a_tpu_the_first_of_tied_maxima_gets_the_gradient(
    computed, dtype, size, partial
):
    """By rows, then columns; each window by itself, so that a value gets the sum."""
    windows = pooled_size(size, window=3, stride=2, partial=partial)
    x = np.random.default_rng(6).integers(0, 3, (2, size, size, 2)).astype("f4")
    g = np.random.default_rng(7).integers(1, 9, (2, windows, windows, 2)).astype("f4")
    expected = np.zeros_like(x)
    for n, i, j, channel in np.ndindex(g.shape):
        part = x[n, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, channel]
        row, column = np.unravel_index(part.argmax(), part.shape)
        expected[n, 2 * i + row, 2 * j + column, channel] += g[n, i, j, channel]
    x, g = jnp.asarray(x, dtype), jnp.asarray(g, dtype)
    pool = functools.partial(max_pool, window=3, stride=2, partial=partial)
    _, gradient = computed(with_gradient(pool), x, g)
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient.astype(jnp.float32), expected)


def test_ties_of_overlapping_windows_equal_the_loop():
    x = np.random.default_rng(4).integers(0, 3, (2, 9, 9, 2)).astype(np.float32)
    g = np.random.default_rng(5).standard_normal((2, 4, 4, 2)).astype(np.float32)
    _, pull_back = jax.vjp(papers_pool, jnp.asarray(x))
    expected = gradient_loop(x, g, 3, 2, False)
    np.testing.assert_allclose(pull_back(jnp.asarray(g))[0], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_gradient_is_lost_behind_other_layers(dtype):
    """Compiled behind a convolution and a norm, values still equal their maximum.

    In half precision XLA may carry values in float32 on one of two ways.
    """
    x = jax.random.normal(jax.random.key(0), (4, 31, 31, 16)).astype(dtype)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 16, 32)).astype(dtype)
    g = jax.random.uniform(jax.random.key(2), (4, 14, 14, 32), minval=1.0, maxval=2.0)
    g = g.astype(dtype)

    @jax.jit
    def received(x, kernel, g):
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=dimensions
        )
        y = lrn.local_response_norm(y, size=5, k=2.0, alpha=2e-5, beta=0.75)
        y = jax.nn.relu(y) + jnp.asarray(0.5, dtype)
        _, pull_back = jax.vjp(papers_pool, y)
        return pull_back(g)[0].astype(jnp.float32).sum()

    assert received(x, kernel, g) >= 0.999 * g.astype(jnp.float32).sum()


@pytest.mark.parametrize("partial", [False, True])
def test_half_precision_is_the_same_in_float32(partial):
    """As a CPU computes it, with many equal values, to the bit."""
    how = {"window": 3, "stride": 2, "partial": partial}
    draws = np.random.default_rng(0)
    x = jnp.asarray(draws.integers(-2, 3, (2, 8, 10, 4)) / 3, jnp.bfloat16)
    pooled = pooling.pool_by_slices(x, **how)
    g = jnp.asarray(draws.normal(size=pooled.shape), jnp.bfloat16)
    gradient = pooling.gradient_by_slices(x, g, **how)
    wide = pooling.pool_by_slices(x, **how, wide=True)
    assert wide.dtype == jnp.bfloat16
    np.testing.assert_array_equal(wide, pooled)
    wide = pooling.gradient_by_slices(x, g, **how, wide=True)
    assert wide.dtype == jnp.bfloat16
    np.testing.assert_array_equal(wide, gradient)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_is_no_select_and_scatter_but_on_a_tpu(dtype):
    x, g = jnp.ones((1, 7, 7, 1), dtype), jnp.ones((1, 3, 3, 1), dtype)
    text = lowered(with_gradient(papers_pool), x, g)
    for name in ("select_and_scatter", "reduce_window"):
        assert name in text["tpu"]
        assert name not in text["cpu"] and name not in text["cuda"]
    assert "stablehlo.slice" in text["cpu"] and "stablehlo.slice" not in text["tpu"]
    # A CPU has no maximum of half precision, and takes float32's.
    rounded = "stablehlo.maximum.*bf16"
    assert not re.search(rounded, text["cpu"])
    assert bool(re.search(rounded, text["cuda"])) == (dtype == "bfloat16")
    assert (text["cpu"] == text["cuda"]) == (dtype == "float32")
    # Several windows give to one value: their gradients add up in float32.
    added = "(tensor<1x7x7x1xf32>, tensor<1x3x3x1xf32>, tensor<f32>) -> "
    assert added in text["tpu"]


@pytest.mark.parametrize("pool", [max_pool, average_pool])
def test_too_small_a_map_is_an_error(pool):
    with pytest.raises(ValueError, match="no window of 3x3 fits into 2x7"):
        pool(jnp.ones((1, 2, 7, 1)), window=3, stride=2)
