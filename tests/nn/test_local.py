"""Locally connected layers, and the networks of the 2012 code that have them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.interop.weight_layout import from_params
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import Conv, Dense, Local
from alexnet_jax.nn.local import connect_shared
from alexnet_jax.runtime.errors import InputError

from networks import features_of


def connect_loop(x, kernel):
    """One product after the other, in float64."""
    rows, columns, side = kernel.shape[:3]
    reach = side // 2
    y = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for row, column, i, j in np.ndindex(rows, columns, side, side):
        r, c = row + i - reach, column + j - reach
        if 0 <= r < rows and 0 <= c < columns:
            y[:, row, column] += x[:, r, c].astype(float) @ kernel[row, column, i, j]
    return y


def gradients_loop(x, kernel, dy):
    rows, columns, side = kernel.shape[:3]
    reach = side // 2
    dx, dk = np.zeros(x.shape), np.zeros(kernel.shape)
    for row, column, i, j in np.ndindex(rows, columns, side, side):
        r, c = row + i - reach, column + j - reach
        if 0 <= r < rows and 0 <= c < columns:
            own = dy[:, row, column].astype(float)
            dx[:, r, c] += own @ kernel[row, column, i, j].T
            dk[row, column, i, j] += x[:, r, c].T @ own
    return dx, dk


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.01)]
)
def test_each_place_has_a_kernel_of_its_own(dtype, tolerance):
    """Values and gradients of two towers that see one input."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 4, 5, 6)), dtype)
    kernels = [
        jnp.asarray(rng.normal(size=(4, 5, 3, 3, 6, 2)), jnp.float32) for _ in range(2)
    ]
    dys = [jnp.asarray(rng.normal(size=(3, 4, 5, 2)), dtype) for _ in range(2)]

    @jax.jit
    def run(x, kernels, dys):
        ys, pull = jax.vjp(connect_shared, x, kernels)
        return ys, *pull(dys)

    def wide(array):
        return np.asarray(array.astype(jnp.float32))

    def close(found, expected):
        apart = np.linalg.norm(wide(found) - expected)
        assert apart < tolerance * np.linalg.norm(expected)

    ys, dx, dkernels = run(x, kernels, dys)
    total = np.zeros(x.shape)
    for kernel, dy, y, dkernel in zip(kernels, dys, ys, dkernels, strict=True):
        # Rounded as they are multiplied.
        used = wide(kernel.astype(dtype))
        close(y, connect_loop(wide(x), used))
        of_x, of_kernel = gradients_loop(wide(x), used, wide(dy))
        close(dkernel, of_kernel)
        total += of_x
    close(dx, total)


ROWS = {
    "conv1": Conv(4, 3, then=("activation", "average_pool")),
    "local2": Local(6, 3, kernel_std=0.1, bias=0.5),
    "fc3": Dense(then=()),
}


def small(**changes):
    settings = {"towers": 1, "pool_partial": True, "dropout": 0.0, **changes}
    return AlexNet(num_classes=3, layers=ROWS, **settings)


@pytest.mark.slow
def test_a_network_adds_a_bias_of_each_place():
    model = small(towers=2)
    assert model.features[3:5] == ("local2.linear", "local2")
    images = 50 * jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda array: rng.normal(size=array.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(1), images),
    )
    layer = variables["params"]["local2"]
    assert layer["kernel"].shape == (2, 4, 4, 3, 3, 2, 3)
    assert layer["bias"].shape == (2, 4, 4, 3)
    _, features = features_of(model, variables, images, ("pool1", "local2.linear"))
    pool1, kernels = np.asarray(features["pool1"]), layer["kernel"]
    for tower in range(2):
        own = slice(3 * tower, 3 * tower + 3)
        seen = pool1[..., 2 * tower : 2 * tower + 2]
        expected = connect_loop(seen, kernels[tower]) + layer["bias"][tower]
        found = features["local2.linear"][..., own]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_the_2012_codes_networks_for_cifar():
    """Parameters by hand, and the size of maps: 32 or 24, halved, rounded up."""
    convolutions = 32 * (75 + 1) + 32 * (800 + 1) + 64 * (800 + 1)
    wide = 64 * (75 + 1) + 64 * (1600 + 1)
    expected = {
        "cifar_80sec": (32, [16, 8, 4], convolutions + 64 * 1025 + 10 * 65),
        "cifar_19pct": (32, [16, 8, 4], convolutions + 10 * 1025),
        "cifar_13pct": (
            24,
            [12, 6, 6, 6],
            wide + 36 * 32 * (577 + 289) + 10 * (36 * 32 + 1),
        ),
        "cifar_11pct": (
            24,
            [12, 6, 6, 6],
            wide + 36 * (64 * 577 + 32 * 577) + 10 * (36 * 32 + 1),
        ),
    }
    for name, (side, sizes, parameters) in expected.items():
        model = AlexNet.from_preset(name, num_classes=10)
        assert model.sizes(side) == sizes
        images = jnp.zeros((1, side, side, 3))
        shapes: Any = jax.eval_shape(model.init, jax.random.key(0), images)
        assert sum(array.size for array in jax.tree.leaves(shapes)) == parameters


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ({"local2": Local(6, 3, stride=2)}, "local2.stride=2 must be 1"),
        ({"local2": Conv(6, 3)}, "model.layers.local2 must be a Local, not Conv"),
        (
            {"conv1": Conv(4, 3, then=("activation", "pool", "average_pool"))},
            "conv1.then=.* pools twice",
        ),
        ({"local1": Local(6, 3)}, "model.layers are named .*counted without a gap"),
    ],
)
def test_rows_that_are_no_network_are_named(rows, shown):
    with pytest.raises(InputError, match=shown):
        AlexNet(num_classes=3, layers={**ROWS, **rows}, towers=1)


def test_other_libraries_have_no_such_weights():
    with pytest.raises(InputError, match="local2 is locally connected"):
        from_params(small(), {}, 8)
