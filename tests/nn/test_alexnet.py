import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import placement
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import Conv, Dense, as_rows, changed, without
from alexnet_jax.nn.presets import ABLATIONS, CODE2012, NO_EXCHANGE, PAPER, PRESETS
from alexnet_jax.nn.towers import add_bias
from alexnet_jax.runs.config import PRESETS as SECTION_PRESETS
from alexnet_jax.runs.config import plain, section
from alexnet_jax.runs.config import preset as preset_changes
from alexnet_jax.runs.config_changes import differences, flat
from alexnet_jax.runs.config_file import load_config
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import step

from networks import (
    TINY,
    equations,
    features_of,
    laid_out,
    logits_of,
    mesh_of,
    tiny,
)
from references import channel_loop, map_loop, pool_loop


def preset(name, *, num_classes=1000, **changes):
    return AlexNet.from_preset(name, num_classes=num_classes, **changes)


def count(model, size):
    images = jnp.zeros((1, size, size, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return sum(array.size for array in jax.tree.leaves(variables))


def test_number_of_parameters():
    assert count(preset("code2012"), 224) == 60_965_224
    assert count(preset("paper"), 224) == 60_965_224
    assert count(preset("conv6"), 224) == 61_555_304
    assert count(preset("one_tower"), 224) == 59_798_312
    assert count(preset("pool_2x2"), 224) == 60_965_224
    assert count(preset("small", num_classes=10), 28) == 1_387_786


@pytest.mark.parametrize("name", ["conv6", *ABLATIONS])
def test_every_ablation_is_a_network_for_the_same_images(name):
    model = preset(name)
    images = jnp.zeros((1, 224, 224, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    logits = jax.eval_shape(model.apply, variables, images)
    assert logits.shape == (1, 1000)
    # As a config it differs from the whole network where it says so, and nowhere else.
    whole, without = (plain(load_config("imagenet", v)) for v in ("code2012", name))
    found = {key: after for key, _, after in differences(whole, without)}
    network = plain(PRESETS[name])
    layers = network.pop("layers", None)
    said = flat({"model": network}) if network else {}
    said |= {"data.crops": False, "data.flip": False} if name == "no_crops" else {}
    said |= {"schedule.colour_shift": 0.0} if name == "no_colour" else {}
    if layers is not None:
        rows = differences(plain(CODE2012), layers)
        said |= {f"model.layers.{key}": after for key, _, after in rows}
    assert found == said


def test_windows_hang_over_or_are_cut_but_not_both():
    with pytest.raises(InputError, match=r"pool_partial and model.pool_cut only one"):
        preset("code2012", pool_partial=True, pool_cut=True)


def test_an_unknown_variant_lists_those_there_are():
    for config in ("imagenet", "quickstart"):
        with pytest.raises(InputError, match="no variant 'no_lrn'.*no_norm, pool_2x2"):
            load_config(config, "no_lrn")


def convolve(x, kernel, stride, padding):
    """Sum of products over the kernel's taps, in float64."""
    x = np.pad(x, ((0, 0), padding, padding, (0, 0))).astype(np.float64)
    side = kernel.shape[0]
    rows = (x.shape[1] - side) // stride + 1
    y = np.zeros((x.shape[0], rows, rows, kernel.shape[3]))
    for i in range(side):
        for j in range(side):
            tap = x[:, i : i + stride * rows : stride, j : j + stride * rows : stride]
            y += tap[:, :rows, :rows] @ kernel[i, j].astype(np.float64)
    return y


def literal_network(params, images, *, paper):
    """Figure 2 in NumPy: two towers by hand, `code2012` or the paper's text."""
    p = jax.tree.map(np.asarray, params)
    alpha = 1e-4 if paper else 2e-5

    def norm(x):
        return channel_loop(x, 5, 2.0, alpha, 0.75)

    def relu(x):
        return np.maximum(x, 0)

    def pool(x):
        return pool_loop(x, 3, 2, False)

    def conv(name, x, tower, stride=1, padding=None):
        kernel = p[name]["kernel"][tower]
        padding = (kernel.shape[0] // 2,) * 2 if padding is None else padding
        return convolve(x, kernel, stride, padding) + p[name]["bias"][tower]

    def full(name, x, tower):
        return x @ p[name]["kernel"][tower].astype(float) + p[name]["bias"][tower]

    two = []
    border = (0, (11 - images.shape[1]) % 4)
    for tower in (0, 1):
        x = conv("conv1", images, tower, stride=4, padding=border)
        x = pool(norm(relu(x))) if paper else relu(pool(norm(x)))
        x = norm(relu(conv("conv2", x, tower)))
        two.append(pool(x if paper else map_loop(x, 5, 1.0, 4e-5, 0.75)))
    both = np.concatenate(two, axis=-1)
    two = []
    for tower in (0, 1):
        x = relu(conv("conv3", both, tower))
        x = relu(conv("conv4", x, tower))
        two.append(pool(relu(conv("conv5", x, tower))))
    both = np.concatenate(two, axis=-1).reshape(len(images), -1)
    for name in ("fc6", "fc7"):
        both = np.concatenate(
            [0.5 * relu(full(name, both, tower)) for tower in (0, 1)], axis=-1
        )
    kernel = np.concatenate(list(p["fc8"]["kernel"]), axis=0)
    return both @ kernel.astype(float) + p["fc8"]["bias"]


def louder(variables):
    """Larger kernels, so that every layer matters in the logits."""
    return jax.tree.map(lambda a: a * 8 if a.ndim > 2 else a, variables)


@pytest.mark.parametrize(
    ("size", "name"),
    [
        (66, "code2012"),
        pytest.param(66, "paper", marks=pytest.mark.extended),
        (67, "code2012"),
        (67, "paper"),
    ],
)
def test_equals_figure_2_written_out_in_numpy(name, size):
    rows = changed(PAPER if name == "paper" else CODE2012, **TINY)
    model = preset(name, num_classes=5, layers=rows)
    rng = np.random.default_rng(0)
    images = rng.normal(0, 60, (2, size, size, 3)).astype(np.float32)
    variables = louder(jax.jit(model.init)(jax.random.key(1), images))
    logits = logits_of(model, variables, images)
    expected = literal_network(variables["params"], images, paper=name == "paper")
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.slow
def test_small_has_the_shapes_of_zhang_et_al():
    model = preset("small", num_classes=10)
    images = jnp.ones((2, 28, 28, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    names = ("pool1", "norm2", "fc3", "fc4")
    logits, features = features_of(model, variables, images, names)
    assert logits.shape == (2, 10)
    shapes = [features[name].shape[1:] for name in names]
    assert shapes == [(14, 14, 64), (7, 7, 64), (384,), (192,)]


def test_no_two_towers_start_alike():
    params = jax.jit(tiny().init)(jax.random.key(0), jnp.zeros((1, 67, 67, 3)))[
        "params"
    ]
    for name, layer in params.items():
        first, second = layer["kernel"]
        assert not np.array_equal(first, second), name
        deviation = tiny().layers[name].kernel_std
        assert np.std(layer["kernel"]) == pytest.approx(deviation, rel=0.2)


def forward_on(model, mesh):
    model = model.clone(tower_axis=meshes.TOWER)

    def forward(variables, images):
        specs = (placement.specs(variables), meshes.EXAMPLES)
        return meshes.sharded(
            lambda v, x: model.apply(v, x),
            mesh,
            in_specs=specs,
            out_specs=meshes.EXAMPLES,
        )(variables, images)

    return forward


def collectives(model, mesh, images):
    laid = {"params": step.abstract_params(model, mesh, images.shape[1])}
    with jax.set_mesh(mesh):
        place = jax.sharding.NamedSharding(mesh, meshes.EXAMPLES)
        images = jax.ShapeDtypeStruct(images.shape, images.dtype, sharding=place)
        jaxpr = jax.make_jaxpr(forward_on(model, mesh))(laid, images)
    found = []
    for equation in equations(jaxpr.jaxpr):
        name = equation.primitive.name
        axes = equation.params.get("axes", equation.params.get("axis_name", ()))
        if any(kind in name for kind in ("psum", "all_gather", "scatter")):
            axes = axes if isinstance(axes, tuple) else (axes,)
            output: Any = equation.outvars[0].aval
            found.append((name, axes, output.shape))
    return found


def test_the_towers_exchange_at_conv3_fc6_fc7_and_nowhere_else():
    found = collectives(
        AlexNet(num_classes=1000), mesh_of(1, 2), jnp.zeros((2, 224, 224, 3))
    )
    assert [(name.split("_inv")[0], axes) for name, axes, _ in found] == [
        ("all_gather", ("tower",)),
        ("all_gather", ("tower",)),
        ("all_gather", ("tower",)),
        ("psum", ("tower",)),
    ]
    # Two devices, two images; every device's half of the channels.
    assert [shape for _, _, shape in found] == [
        (2, 2, 13, 13, 128),
        (2, 2, 6, 6, 128),
        (2, 2, 2048),
        (2, 1000),
    ]


def test_exchanges_can_be_taken_away():
    model = tiny({**NO_EXCHANGE, "fc7": {"exchange": True}})
    found = collectives(model, mesh_of(1, 2), jnp.zeros((2, 67, 67, 3)))
    assert len(found) == 2


def test_a_tower_does_not_see_the_other_before_conv3():
    model = tiny()
    images = 50 * jax.random.normal(jax.random.key(3), (2, 67, 67, 3))
    variables = louder(jax.jit(model.init)(jax.random.key(0), images))
    changed = jax.tree.map(lambda a: a, variables)
    kernel = changed["params"]["conv2"]["kernel"]
    changed["params"]["conv2"]["kernel"] = kernel.at[0].multiply(-1.5)
    names = ("conv2.linear", "pool2", "conv3.linear")
    _, before = features_of(model, variables, images, names)
    _, after = features_of(model, changed, images, names)

    def tower(values, index):
        width = values.shape[-1] // 2
        return values[..., index * width : (index + 1) * width]

    for name in names[:2]:
        assert not np.array_equal(tower(before[name], 0), tower(after[name], 0))
        np.testing.assert_array_equal(tower(before[name], 1), tower(after[name], 1))
    for index in (0, 1):
        difference = tower(before[names[2]], index) - tower(after[names[2]], index)
        assert np.abs(difference).max() > 0


@pytest.mark.parametrize(
    "shape", [pytest.param((1, 1), marks=pytest.mark.slow), (1, 2), (2, 1)]
)
def test_a_mesh_gives_what_no_mesh_gives(shape):
    model, mesh = tiny(), mesh_of(*shape)
    images = 50 * jax.random.normal(jax.random.key(3), (4, 67, 67, 3))
    variables = louder(jax.jit(model.init)(jax.random.key(0), images))
    expected = jax.jit(model.apply)(variables, images)
    laid = {"params": laid_out(variables["params"], model, mesh, 67)}
    place = jax.sharding.NamedSharding(mesh, meshes.EXAMPLES)
    logits = jax.jit(forward_on(model, mesh))(laid, jax.device_put(images, place))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(expected) > 0.1


@pytest.mark.slow
def test_dropout_masks_belong_to_layer_tower_and_example():
    wide = {"width": 400, "bias": 100.0}
    model = tiny({"fc6": wide, "fc7": wide})
    images = jnp.zeros((3, 67, 67, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    key = jax.random.key(7)

    # With equal inputs, zeros in the logits' inputs show the masks: read them through
    # the derivative of the logits by a layer's biases, which is zero where dropped.
    def masks(examples, key=key, row=0, layer="fc7"):
        def logit(bias):
            params = {**variables["params"]}
            params[layer] = {**params[layer], "bias": bias}
            examples_array = jnp.asarray(examples, jnp.int32)
            logits = logits_of(
                model,
                {"params": params},
                images,
                dropout_key=key,
                examples=examples_array,
            )
            return logits[row].sum()

        return np.asarray(jax.grad(logit)(variables["params"][layer]["bias"]) != 0)

    base = masks([0, 1, 2])
    assert 0.4 < base.mean() < 0.6
    assert not np.array_equal(base[0], base[1])
    before = masks([0, 1, 2], layer="fc6")
    assert 0.4 < before.mean() < 0.6
    # Independent masks agree in half of the places.
    assert 0.4 < (before == base).mean() < 0.6
    np.testing.assert_array_equal(base, masks([0, 5, 9]))
    np.testing.assert_array_equal(masks([4, 1, 2], row=1), masks([1, 4, 4]))
    assert not np.array_equal(base, masks([1, 0, 2]))
    assert not np.array_equal(base, masks([0, 1, 2], key=jax.random.key(8)))


def test_without_a_key_outputs_are_halved_and_without_dropout_they_are_not():
    images = 50 * jax.random.normal(jax.random.key(3), (2, 67, 67, 3))
    model, without = tiny(), tiny(dropout=0.0)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    _, features = features_of(model, variables, images, ("fc7", "fc6"))
    kernel = jnp.concatenate(list(variables["params"]["fc8"]["kernel"]))
    expected = 0.5 * features["fc7"] @ kernel
    logits = logits_of(model, variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    _, whole = features_of(without, variables, images, ("fc6",))
    np.testing.assert_array_equal(features["fc6"], whole["fc6"])
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        logits_of(without, variables, images, dropout_key=key),
        logits_of(without, variables, images),
    )


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_other_activations(activation):
    model = tiny(activation=activation)
    images = 50 * jax.random.normal(jax.random.key(3), (2, 67, 67, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    _, features = features_of(model, variables, images, ("conv4", "conv4.linear"))
    reference = {"tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}[activation]
    expected = reference(np.asarray(features["conv4.linear"], np.float64))
    np.testing.assert_allclose(features["conv4"], expected, rtol=1e-5, atol=1e-6)


def test_half_precision_computes_in_it_and_keeps_float32_parameters():
    images = 50 * jax.random.normal(jax.random.key(3), (2, 67, 67, 3))
    model = tiny(dtype="bfloat16")
    variables = louder(jax.jit(model.init)(jax.random.key(0), images))
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits, features = features_of(model, variables, images, ("conv3", "fc6"))
    assert logits.dtype == jnp.float32
    assert {a.dtype for a in features.values()} == {jnp.dtype("bfloat16")}
    whole = logits_of(tiny(), variables, images)
    assert np.abs(logits - whole).max() < 0.05 * np.abs(whole).max()


def test_the_gradient_of_a_bias_is_summed_in_float32():
    """In bfloat16 a sum of 1,601 is none, and a GPU's stops at 256."""
    ones = jnp.ones((1601, 1, 1, 2), jnp.bfloat16)

    def total(bias):
        return add_bias(ones, bias).astype(jnp.float32).sum()

    gradient = jax.grad(total)(jnp.zeros(2, jnp.float32))
    np.testing.assert_array_equal(gradient, [1601, 1601])


def test_pooling_and_norms_can_be_left_out():
    pooled = {"then": ("activation", "pool")}
    model = tiny({"conv1": pooled, "conv2": pooled})
    assert not any("norm" in name for name in model.features)
    images = 50 * jax.random.normal(jax.random.key(3), (1, 67, 67, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    _, features = features_of(model, variables, images, ("pool1", "conv1.linear"))
    expected = np.maximum(
        pool_loop(np.asarray(features["conv1.linear"]), 3, 2, False), 0
    )
    np.testing.assert_array_equal(features["pool1"], expected)
    assert tiny({"conv5": {"then": ("activation",)}}).sizes(67) == [7, 3, 3, 3, 3]


def test_every_size_that_works_out_is_taken_and_others_name_the_nearest():
    model = tiny()
    good = [size for size in range(1, 300) if model.sizes(size)]
    assert good[:8] == [64, 65, 66, 67, 96, 97, 98, 99]
    assert {224, 225, 226, 227, 256} <= set(good)
    for size in good[:8]:
        images = jnp.zeros((1, size, size, 3))
        jax.eval_shape(model.init, jax.random.key(0), images)
    with pytest.raises(InputError, match="height 228 .* 227 and 256"):
        model.init(jax.random.key(0), jnp.zeros((1, 228, 228, 3)))
    with pytest.raises(InputError, match="width 40 .*: 64"):
        model.init(jax.random.key(0), jnp.zeros((1, 67, 40, 3)))


@pytest.mark.slow
def test_conv1_sees_zeros_at_the_right_and_bottom_of_224():
    model = tiny()
    images = 50 * jax.random.normal(jax.random.key(3), (1, 64, 64, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    padded = lax.pad(images, 0.0, [(0, 0, 0), (0, 3, 0), (0, 3, 0), (0, 0, 0)])
    np.testing.assert_array_equal(
        logits_of(model, variables, images), logits_of(model, variables, padded)
    )


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"activation": "gelu"}, "activation='gelu' unknown; choose from relu"),
        ({"dtype": "int8"}, "dtype='int8' unknown; choose from float32, bfloat16"),
        ({"dropout": 1.0}, "dropout=1.0 must lie"),
        ({"layers": {}}, "layers are counted without a gap"),
    ],
)
def test_attributes_that_do_not_fit_together(changes, shown):
    with pytest.raises(InputError, match=shown):
        tiny(**changes)


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ({"fc6": {"width": 15}}, "fc6.width=15 does not divide over 2 towers"),
        ({"fc6": {"width": 0}}, "model.layers.fc6.width=0 must be at least 1"),
        ({"fc6": {"width": None}}, "model.layers.fc6.width=None must be a whole"),
        ({"fc8": {"width": 12}}, "fc8.width=12 must be None: the last layer"),
        ({"fc8": {"then": ("activation",)}}, "fc8.then empty"),
        ({"conv1": {"channels": -4}}, "conv1.channels=-4 must be at least 1"),
        ({"conv2": {"kernel": -1}}, "model.layers.conv2.kernel=-1 must be"),
        ({"conv2": {"kernel": 4}}, "conv2.kernel=4 must be odd where .*stride is 1"),
        ({"conv3": {"kernel_std": -0.1}}, "kernel_std=-0.1 must not be negative"),
        ({"conv3": {"bias": float("nan")}}, "conv3.bias=nan must be finite"),
        ({"conv3": {"then": ("relu",)}}, "conv3.then names relu; choose from activ"),
        ({"fc6": {"then": ("activation", "pool")}}, "fc6.then names pool; choose"),
        ({"conv3": {"then": ("pool",)}}, "conv3.then=.* lacks activation"),
        ({"conv3": {"then": ("activation",) * 2}}, "conv3.then=.* a step twice"),
        (
            {"conv3": {"then": ("norm", "activation", "same_map_norm")}},
            "conv3.then=.* must have same_map_norm directly behind norm",
        ),
    ],
)
def test_a_value_of_a_row_that_is_wrong_is_named(rows, shown):
    with pytest.raises(InputError, match=shown):
        tiny(rows)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"conv9": {}}, "model.layers are named .*counted without a gap"),
        ({"conv6": Conv(8, 3), "fc6": Dense(8)}, "counted without a gap"),
        ({"conv_1": Conv(8, 3)}, "model.layers.conv_1 is no name of a layer"),
        ({"conv3": Dense(8)}, "model.layers.conv3 must be a Conv, not Dense"),
        ({"conv3": 5}, "model.layers.conv3=5 must be a mapping"),
        ({"conv3": {"channels": 8}}, "model.layers.conv3.kernel is missing"),
        ({"conv3": {"kernle": 3}}, "conv3.kernle is unknown; choose from channels"),
        (
            {"fc6": {"width": 8, "then": "dropout"}},
            "fc6.then='dropout' must be a tuple",
        ),
    ],
)
def test_rows_that_are_no_network_are_refused(changes, shown):
    with pytest.raises(InputError, match=shown):
        as_rows({**CODE2012, **changes})


@pytest.mark.parametrize(
    ("name", "key", "value", "shown"),
    [
        ("conv1", "channels", "a", "conv1.channels='a' must be a whole number"),
        ("conv1", "channels", 8.0, "conv1.channels=8.0 must be a whole number"),
        ("conv1", "bias", "a", "model.layers.conv1.bias='a' must be a number"),
    ],
)
def test_entries_of_another_kind_are_refused(name, key, value, shown):
    """What a command line may give; the tests' own check of types doesn't see it."""
    row = copy.copy(CODE2012[name])
    object.__setattr__(row, key, value)
    with pytest.raises(InputError, match=shown):
        row.check(f"model.layers.{name}")


def test_mappings_become_rows_in_the_order_of_their_numbers():
    rows = {name: plain(row) for name, row in CODE2012.items()}
    backwards = {
        name: {**rows[name], "then": list(rows[name]["then"])} for name in rows
    }
    backwards = dict(reversed(backwards.items()))
    model = AlexNet(num_classes=1000, layers=backwards)
    assert model == AlexNet(num_classes=1000)
    assert list(model.layers) == list(CODE2012)


def test_a_layer_removed_renumbers_those_behind_it():
    rows = without(CODE2012, "conv4")
    assert list(rows) == ["conv1", "conv2", "conv3", "conv4", "fc5", "fc6", "fc7"]
    assert rows["conv4"] == CODE2012["conv5"]
    assert rows["fc5"] == CODE2012["fc6"]
    with pytest.raises(InputError, match="no layer conv9; choose from conv1"):
        changed(CODE2012, conv9={"channels": 1})


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(
        InputError, match="no preset 'vgg'; choose from code2012, paper"
    ):
        AlexNet.from_preset("vgg", num_classes=2)


def test_presets_of_other_sections_are_presets():
    for name in PRESETS:
        preset_changes(name)
    for of_section in SECTION_PRESETS.values():
        assert set(of_section) <= set(PRESETS)


def test_dropout_behind_a_convolution_comes_before_the_exchange():
    """As torchvision has it: conv5's outputs are zeroed, in their own places."""
    then = ("activation", "pool", "dropout")
    model = tiny({"conv5": {"then": then}, "fc6": {"then": ("activation",)}})
    images = 50 * jax.random.normal(jax.random.key(3), (2, 67, 67, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    names = ("pool5", "fc6.linear")
    _, features = features_of(model, variables, images, names)
    flat5 = np.asarray(features["pool5"]).reshape(2, -1)
    fc6 = variables["params"]["fc6"]
    kernel, bias = np.asarray(fc6["kernel"]), np.asarray(fc6["bias"])
    expected = [0.5 * flat5 @ k + b for k, b in zip(kernel, bias, strict=True)]
    np.testing.assert_allclose(
        features["fc6.linear"], np.concatenate(expected, -1), rtol=1e-4, atol=1e-4
    )


def test_an_unknown_layer_names_those_there_are():
    images = jnp.zeros((1, 67, 67, 3))
    variables = jax.jit(tiny().init)(jax.random.key(0), images)
    with pytest.raises(InputError, match="no layer conv9; choose from conv1.linear"):
        tiny().apply(variables, images, layers=("conv9",))


def test_the_default_network_is_code2012():
    defaults = AlexNet(num_classes=1000)
    assert preset("code2012") == defaults
    config = load_config("imagenet")
    settings = section(plain(config), "model")
    assert AlexNet(num_classes=1000, **settings) == defaults
