import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.nn import lrn

from networks import as_on_a_tpu, lowered, on_this_device
from references import channel_loop, map_loop


PAPERS = {"size": 5, "k": 2.0, "alpha": 2e-5, "beta": 0.75}
papers_norm = functools.partial(lrn.local_response_norm, **PAPERS)
NORMS = [
    (lrn.local_response_norm, channel_loop, (2, 3, 2, 11)),
    (lrn.same_map_norm, map_loop, (2, 7, 6, 3)),
]
CONSTANTS = [
    PAPERS,
    {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75},
    {"size": 9, "k": 1.0, "alpha": 1e-3, "beta": 0.5},
    {"size": 3, "k": 1.0, "alpha": 0.3, "beta": 0.9},
]


WAYS = pytest.mark.parametrize("computed", [on_this_device, as_on_a_tpu])


def values(shape, scale=100.0):
    """Of the size of activations of raw pixels, so that the norm matters."""
    return (scale * np.random.default_rng(1).standard_normal(shape)).astype(np.float32)


@WAYS
@pytest.mark.parametrize("constants", CONSTANTS)
@pytest.mark.parametrize(("norm", "loop", "shape"), NORMS)
def test_equals_a_literal_loop(norm, loop, shape, constants, computed):
    x = values(shape)
    y = computed(lambda x: norm(x, **constants), x)
    np.testing.assert_allclose(y, loop(x, **constants), rtol=1e-6, atol=0)


def derivative_of(norm, **constants):
    """A function from features and the output's gradient to output and gradient."""

    def run(x, g):
        y, pull_back = jax.vjp(functools.partial(norm, **constants), x)
        return y, pull_back(g)[0]

    return run


@WAYS
@pytest.mark.parametrize("constants", CONSTANTS)
@pytest.mark.parametrize(("norm", "loop", "shape"), NORMS)
def test_derivative_equals_central_differences_of_the_loop(
    norm, loop, shape, constants, computed
):
    shape = (1, *shape[1:])
    x, direction = values(shape), values(shape, 1.0)
    _, derivative = computed(derivative_of(norm, **constants), x, direction)
    expected = np.empty(shape)
    step = 1e-3
    for place in np.ndindex(shape):
        above, below = x.astype(np.float64), x.astype(np.float64)
        above[place] += step
        below[place] -= step
        difference = loop(above, **constants) - loop(below, **constants)
        expected[place] = (difference * direction).sum() / (2 * step)
    assert np.abs(derivative - expected).max() <= 1e-6 * np.abs(expected).max()


@WAYS
@pytest.mark.parametrize(("norm", "loop", "shape"), NORMS)
def test_half_precision_to_its_precision(norm, loop, shape, computed):
    constants = PAPERS
    if loop is map_loop:
        # Those of `cnorm2` in the 2012 code, the defaults of `same_map_norm`.
        constants = {"size": 5, "k": 1.0, "alpha": 4e-5, "beta": 0.75}
    else:
        norm = papers_norm
    x = jnp.asarray(values(shape), jnp.bfloat16)
    y, derivative = computed(derivative_of(norm), x, jnp.ones_like(x))
    assert y.dtype == derivative.dtype == jnp.bfloat16
    wide = x.astype(jnp.float32)
    _, wide_pull_back = jax.vjp(norm, wide)
    (wide_derivative,) = wide_pull_back(jnp.ones_like(wide))
    precision = float(jnp.finfo(jnp.bfloat16).eps)
    expected = loop(np.asarray(wide), **constants)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=precision)
    error = np.abs(derivative.astype(jnp.float32) - wide_derivative).max()
    assert error <= precision * np.abs(wide_derivative).max()


def test_the_derivative_contains_no_power():
    gradient = jax.grad(lambda x: papers_norm(x).sum())
    jaxpr = str(jax.make_jaxpr(gradient)(jnp.ones((2, 8))))
    assert "rsqrt" in jaxpr
    assert "pow" not in jaxpr
    assert "log" not in jaxpr


def test_an_even_window_is_an_error():
    with pytest.raises(ValueError, match="odd, not 4"):
        papers_norm(jnp.ones((1, 8)), size=4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", [lrn.local_response_norm, lrn.same_map_norm])
def test_a_tpu_has_windows_of_its_own_and_the_others_slices(norm, dtype):
    x = jnp.ones((1, 7, 6, 11), dtype)
    text = lowered(derivative_of(norm), x, x)
    own = "dot_general" if norm is lrn.local_response_norm else "reduce_window"
    for platform, program in text.items():
        assert (f"stablehlo.{own}" in program) == (platform == "tpu")
        assert ("stablehlo.slice" in program) == (platform != "tpu")
    assert text["cpu"] == text["cuda"]
    # No window adds in half precision.
    results = re.findall(rf"stablehlo\.{own}[^$]*? -> (\S+)", text["tpu"])
    assert set(results) == {"tensor<1x7x6x11xf32>"}
