"""The convolution and its derivatives against a loop over pixels."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.nn import convolution, products
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import Conv
from alexnet_jax.nn.presets import PRESETS

from networks import lowered


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
        convolution.kernel_gradient_by_xla,
    ):
        gradient = way(x, kernel, narrow, stride=stride)
        assert gradient.dtype == dtype
        assert distance(gradient, gradients(dy)[1]) < tolerance


# Side of the image, channels, side of the kernel, stride: conv1 of torchvision's
# network (224, two zeros before), Caffe's (227), figure 2's (224); sizes that tests
# train on; kernels that their stride divides; smaller than it; with more channels.
STRIDED = [
    (226, 3, 11, 4),
    (227, 3, 11, 4),
    (224, 3, 11, 4),
    (67, 3, 11, 4),
    (66, 3, 11, 4),
    (28, 3, 6, 2),
    (9, 3, 2, 3),
    (27, 48, 5, 2),
]


def test_every_strided_convolution_of_a_preset_is_among_those_tested():
    kernels = {
        (row.kernel, row.stride)
        for name in PRESETS
        for row in AlexNet.from_preset(name, num_classes=2).layers.values()
        if isinstance(row, Conv) and row.stride > 1
    }
    assert kernels and kernels <= {geometry[2:] for geometry in STRIDED}


@pytest.mark.parametrize(("size", "channels", "side", "stride"), STRIDED)
def test_the_folded_convolution_equals_the_plain_one(size, channels, side, stride):
    """Values and gradients, to the rounding of float32."""
    rng = np.random.default_rng(side)
    x = rng.normal(size=(1, size, size, channels)).astype(np.float32)
    kernel = rng.normal(size=(side, side, channels, 6)).astype(np.float32)
    rows = -(-(size - side) // stride) + 1
    dy = rng.normal(size=(1, rows, rows, 6)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def run(way):
        y, pull = jax.vjp(functools.partial(way, stride=stride), x, kernel)
        return y, *pull(dy)

    plain = run(convolution.plain_convolution)
    folded = run(convolution.folded_convolution)
    for expected, ours in zip(plain, folded, strict=True):
        assert ours.shape == expected.shape
        assert distance(ours, np.asarray(expected, np.float64)) < 2e-6


@pytest.mark.parametrize("dense", [True, False])
def test_towers_on_one_input_are_towers_by_themselves(dense):
    """One product for several kernels, as on an accelerator, and one for each."""
    rng = np.random.default_rng(0)
    if dense:
        operation = products.derived(jnp.matmul)
        x, kernels = rng.normal(size=(3, 7)), rng.normal(size=(3, 7, 4))
    else:
        operation = products.derived(
            functools.partial(convolution.folded_convolution, stride=2)
        )
        x, kernels = rng.normal(size=(3, 9, 9, 2)), rng.normal(size=(3, 3, 3, 2, 4))
    x, *kernels = (jnp.asarray(array, jnp.float32) for array in (x, *kernels))

    dys = [operation.output(x, kernel) + 1 for kernel in kernels]

    @functools.partial(jax.jit, static_argnums=0)
    def run(way):
        return (
            way.outputs(x, kernels),
            way.input_gradient(x, kernels, dys),
            way.kernel_gradients(x, kernels, dys),
        )

    alone = jax.tree.leaves(run(products.one_by_one(operation)))
    together = jax.tree.leaves(run(products.side_by_side(operation)))
    assert len(alone) == 2 * len(kernels) + 1
    for expected, ours in zip(alone, together, strict=True):
        assert distance(ours, np.asarray(expected, np.float64)) < 1e-6


def test_the_platform_decides_the_kernel_gradient():
    x, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 2))

    def loss(kernel):
        return convolution.convolve(x, kernel, 1).sum()

    text = lowered(jax.grad(loss), kernel)
    assert "stablehlo.dot_general" in text["cpu"]
    for platform in ("cuda", "tpu"):
        assert "stablehlo.dot_general" not in text[platform]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_platform_decides_the_form_of_strided_and_shared_convolutions(dtype):
    x, kernels = jnp.ones((1, 23, 23, 3), dtype), [jnp.ones((11, 11, 3, 2), dtype)] * 2

    def loss(kernels):
        return sum((y * y).sum() for y in convolution.convolve_shared(x, kernels, 4))

    text = lowered(jax.grad(loss), kernels)
    kind = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    plain, folded = f"tensor<11x11x3x2x{kind}>", f"tensor<3x3x48x4x{kind}>"
    for platform, program in text.items():
        shapes = re.findall(r"stablehlo.convolution\(.*: \(\S+, (\S+)\)", program)
        if platform == "cpu":
            assert shapes == [plain, plain]
        else:
            assert plain not in shapes and folded in shapes


def half_precision_product():
    """A product's operands and its output's gradient, and the two exact results."""
    rng = np.random.default_rng(0)
    shapes = ((8, 600), (600, 9), (8, 9))
    x, kernel, dy = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in shapes)
    exact = [np.asarray(array, np.float64) for array in (x, kernel, dy)]
    return (x, kernel, dy), (exact[0] @ exact[1], exact[2] @ exact[1].T)


def multiplied(x, kernel, dy):
    """A product, and the gradient of its input."""
    y, pull = jax.vjp(lambda x: products.multiply_shared(x, [kernel])[0], x)
    return y, pull(dy)[0]


def test_a_product_in_half_precision_is_rounded_once():
    given, exact = half_precision_product()
    for found, expected in zip(jax.jit(multiplied)(*given), exact, strict=True):
        assert found.dtype == jnp.bfloat16
        off = np.abs(np.asarray(found, np.float64) - expected)
        # Half a unit of the last of eight digits, and the sum's own rounding.
        assert (off <= 2.0**-8 * np.abs(expected) + 1e-4).all()


def test_a_cpu_multiplies_half_precision_as_it_stands():
    """XLA's library has no kernel whose result is bfloat16."""
    given, _ = half_precision_product()
    results = {
        platform: re.findall(r"stablehlo.dot_general .* -> tensor<\d+x\d+x(\w+)>", text)
        for platform, text in lowered(multiplied, *given).items()
    }
    assert results == {"cpu": ["f32"] * 2, "cuda": ["bf16"] * 2, "tpu": ["bf16"] * 2}
