"""The fused kernels' arithmetic on a CPU, against the plain functions in float32."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.nn import lrn
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.fused.launch import Way
from alexnet_jax.nn.fused.powers import Norm
from alexnet_jax.nn.fused.stages import KINDS, OF_TOWERS, stage, stage_of_towers
from alexnet_jax.nn.fused.support import Device, decide, describe
from alexnet_jax.nn.layers import changed
from alexnet_jax.nn.presets import CODE2012, PRESETS
from alexnet_jax.runtime.errors import InputError

from networks import batches, flat, mesh_of, parts, tiny


ALPHA = {"code2012": 2e-5, "paper": 1e-4}


def stored(x):
    """A value as bfloat16 stores it."""
    return x.astype(jnp.bfloat16).astype(np.float64)


def window_sum(x, axes):
    for axis in axes:
        around = [(2, 2) if a == axis else (0, 0) for a in range(x.ndim)]
        padded = np.pad(x, around)
        shifted = [np.take(padded, range(o, o + x.shape[axis]), axis) for o in range(5)]
        x = np.sum(shifted, axis=0)
    return x


def normed(x, axes, k, alpha):
    """A response norm, and its derivative."""
    s = k + alpha * window_sum(x * x, axes)

    def back(g):
        neighbours = window_sum(g * x * s**-1.75, axes)
        return g * s**-0.75 - 1.5 * alpha * x * neighbours

    return x * s**-0.75, back


def pooled(x):
    rows, columns = ((n - 3) // 2 for n in x.shape[1:3])
    places = [
        np.s_[:, a : a + 2 * rows + 1 : 2, b : b + 2 * columns + 1 : 2]
        for a in range(3)
        for b in range(3)
    ]
    values = [x[place] for place in places]
    largest, first = np.max(values, axis=0), np.argmax(values, axis=0)

    def back(g):
        received = np.zeros_like(x)
        for number, place in enumerate(places):
            received[place] += np.where(first == number, g, 0)
        return received

    return largest, back


def rectified(x):
    return np.maximum(x, 0), lambda g: np.where(x > 0, g, 0)


def half(x):
    """A value as float16 stores it."""
    return x.astype(np.float16).astype(np.float64)


def exact(x):
    return x


def reference(steps, alpha, y, bias, between=half):
    """Values and gradients of a stage in float64; values are rounded between two norms,
    where they are stored."""
    functions = {
        "activation": rectified,
        "norm": lambda x: normed(x, (3,), 2.0, alpha),
        "same_map_norm": lambda x: normed(x, (1, 2), 1.0, 4e-5),
        "pool": pooled,
    }
    x, ways = wide(y) + stored(wide(bias)), []
    for step in steps:
        x, back = functions[step](x)
        if step == "norm" and "same_map_norm" in steps:
            x = between(x)
        ways = [back, *ways]
    g = wide(gradient_of(x))
    for back in ways:
        g = back(g)
    return x, g, g.sum((0, 1, 2))


def values(shape, scale=20.0):
    """A convolution's values and biases as they are in training."""
    rng = np.random.default_rng(0)
    y = jnp.asarray(scale * rng.standard_normal(shape), jnp.bfloat16)
    return y, jnp.asarray(0.1 * scale * rng.standard_normal(shape[-1]), jnp.float32)


def gradient_of(out):
    rng = np.random.default_rng(2)
    return jnp.asarray(rng.standard_normal(out.shape), jnp.bfloat16)


def both_ways(function, y, bias):
    """Values, and the gradients of y and of the bias."""
    out, pull_back = jax.vjp(function, y, bias)
    return out, *pull_back(gradient_of(out))


def wide(array):
    return np.asarray(array, np.float64)


def assert_close(found, expected):
    """Values and gradients to bfloat16's rounding; sums to that of u and v at most."""
    out, dy, db = map(wide, found)
    out0, dy0, db0 = map(wide, expected)
    np.testing.assert_allclose(out, out0, rtol=2**-7)
    # A last digit of a value decides which of two is a window's maximum: a few in a
    # thousand may be others.
    off = np.abs(dy - dy0) > 0.02 * np.abs(dy0) + 0.02 * np.abs(dy0).max()
    assert off.mean() <= 2e-3
    assert np.linalg.norm((dy - dy0)[~off]) <= 5e-3 * np.linalg.norm(dy0)
    if not off.any():
        assert np.linalg.norm(db - db0) <= 5e-3 * np.linalg.norm(db0)


@pytest.mark.parametrize("alpha", ALPHA.values(), ids=ALPHA)
@pytest.mark.parametrize("steps", KINDS, ids="-".join)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 11, 13, 16),
        (1, 10, 4, 8),
        pytest.param((2, 55, 55, 48), marks=pytest.mark.slow),
        pytest.param((2, 27, 27, 128), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_stage_equals_the_plain_functions(shape, steps, alpha):
    y, bias = values(shape)
    fused = stage(steps, Norm(lrn.NORM_K, alpha), Way.HOST)
    found = jax.jit(functools.partial(both_ways, fused))(y, bias)
    assert [array.dtype for array in found] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    assert_close(found, reference(steps, alpha, y, bias))


@pytest.mark.parametrize("steps", [s for s in KINDS if "norm" in s], ids="-".join)
def test_between_convolution_and_pooling_nothing_is_rounded_to_bfloat16(steps):
    """Where the bias is larger than the signal, as in conv2 at the start, another
    rounding would take as much of the signal as that of the result does."""
    y, bias = values((2, 11, 13, 16), scale=0.05)[0], jnp.ones(16)
    out = stage(steps, Norm(lrn.NORM_K, lrn.NORM_ALPHA), Way.HOST)(y, bias)
    expected = reference(steps, lrn.NORM_ALPHA, y, bias, exact)[0]
    bfloat16, float16 = 2.0**-8, 2.0**-11
    np.testing.assert_allclose(wide(out), expected, rtol=bfloat16 + 1.1 * float16)


@pytest.mark.parametrize("steps", [s for s in KINDS if "pool" in s], ids="-".join)
def test_the_first_of_tied_maxima_gets_the_gradient(steps):
    """Where a channel has few values, most windows have several maxima."""
    kinds = 3.0 * np.random.default_rng(3).integers(-1, 3, (2, 9, 9, 1))
    y = jnp.asarray(np.broadcast_to(kinds, (2, 9, 9, 16)), jnp.bfloat16)
    bias = jnp.zeros(16)
    fused = stage(steps, Norm(lrn.NORM_K, lrn.NORM_ALPHA), Way.HOST)
    assert_close(both_ways(fused, y, bias), reference(steps, lrn.NORM_ALPHA, y, bias))


@pytest.mark.parametrize("steps", [s for s in KINDS if "pool" in s], ids="-".join)
def test_no_gradient_is_lost_on_the_way_back(steps):
    """Where a window's gradient is 1 and its largest value is above 0, a value gets
    it."""
    y, bias = values((1, 25, 25, 8), scale=0.5)
    bias = bias + 2.0
    # Where alpha is small for the values, the norm is a factor.
    fused = stage(steps, Norm(2.0, 1e-6), Way.HOST)
    out, pull_back = jax.vjp(fused, y, bias)
    assert (out > 0).all()
    gradients = wide(pull_back(jnp.ones_like(out))[0])
    assert (pooled(gradients)[0] > 0).all()


@pytest.mark.parametrize("steps", KINDS, ids="-".join)
def test_what_is_no_number_stays_seen(steps):
    y, bias = values((1, 7, 7, 8))
    y = y.at[0, 3, 3, 4].set(jnp.nan)
    out = stage(steps, Norm(lrn.NORM_K, lrn.NORM_ALPHA), Way.HOST)(y, bias)
    assert jnp.isnan(out).any()


@pytest.mark.parametrize("shape", [(1, 2), (2, 1)], ids=str)
def test_stages_inside_shard_map_have_the_same_bits(shape):
    """A tower on each device, and biases that several devices share."""
    mesh = mesh_of(*shape)
    towers = [values((2, 7, 7, 8), scale) for scale in (20.0, 30.0)]
    y, bias = (jnp.stack(part) for part in zip(*towers, strict=True))
    norm = Norm(lrn.NORM_K, lrn.NORM_ALPHA)
    stages = [stage(steps, norm, Way.HOST) for steps in KINDS]

    def results(function, y, bias):
        out, pull_back = jax.vjp(function, y, bias)
        return out, *pull_back(out)

    @jax.jit
    def inside(y, bias):
        found = []
        for fused in stages:

            def local(y, bias, fused=fused):
                return jnp.stack([fused(x, b) for x, b in zip(y, bias, strict=True)])

            sharded = meshes.sharded(
                local, mesh, in_specs=split, out_specs=P("tower", "data")
            )
            found.append(results(sharded, y, bias))
        return found

    split = (P("tower", "data"), P("tower"))
    placed = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip((y, bias), split, strict=True)
    ]
    outside = jax.jit(lambda y, b: [results(fused, y, b) for fused in stages])
    found = inside(*placed)
    for tower, (one, its) in enumerate(towers):
        for ours, theirs in zip(found, outside(one, its), strict=True):
            out, dy, db = (wide(array)[tower] for array in ours)
            np.testing.assert_array_equal(out, wide(theirs[0]))
            np.testing.assert_array_equal(dy, wide(theirs[1]))
            np.testing.assert_allclose(db, theirs[2], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("steps", OF_TOWERS, ids="-".join)
def test_towers_side_by_side_do_not_see_each_other(steps):
    y, bias = values((1, 7, 7, 24))
    norm = Norm(lrn.NORM_K, lrn.NORM_ALPHA)
    outs, pull_back = jax.vjp(stage_of_towers(steps, norm, Way.HOST, 3), y, bias)
    gradients = tuple(gradient_of(out) * (2 + n) for n, out in enumerate(outs))
    together = pull_back(gradients)
    for tower in range(3):
        part = np.s_[..., 8 * tower : 8 * tower + 8]
        out, alone = jax.vjp(stage(steps, norm, Way.HOST), y[part], bias[part])
        np.testing.assert_array_equal(wide(outs[tower]), wide(out))
        for ours, theirs in zip(together, alone(gradients[tower]), strict=True):
            np.testing.assert_array_equal(wide(ours)[part], wide(theirs))


@pytest.mark.extended
@pytest.mark.parametrize("steps", KINDS, ids="-".join)
def test_pallas_gives_the_same_numbers(steps):
    """Blocks of lanes, partial sums and loops are Pallas' own."""
    y, bias = values((3, 11, 9, 16))
    way = functools.partial(stage, steps, Norm(lrn.NORM_K, lrn.NORM_ALPHA))
    found, expected = (
        jax.jit(functools.partial(both_ways, way(kind)))(y, bias)
        for kind in (Way.INTERPRETER, Way.HOST)
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(wide(ours), wide(theirs), rtol=1e-2, atol=1e-3)


# The network --------------------------------------------------------------------------

EIGHTS = {
    **{f"conv{n}": {"channels": 16} for n in (1, 2, 3, 4, 5)},
    "fc6": {"width": 16},
    "fc7": {"width": 8},
}


def trained(implementation, shape):
    """The state before and after a step of a small network in bfloat16."""
    model = tiny(EIGHTS, dtype="bfloat16", implementation=implementation)
    state, train = parts(model, mesh_of(*shape), 67)
    before = flat(state.params)
    (batch,) = batches(1, batch_size=4, size=67)
    state, metrics = train(state, batch)
    return before, flat(state.params), float(metrics["loss"])


@pytest.mark.extended
def test_a_step_does_the_same_on_every_mesh_and_as_in_xla():
    before, after, loss = trained("xla", (1, 1))
    for shape in ((1, 1), (1, 2), (2, 1)):
        start, end, other = trained("interpret", shape)
        # The same parameters, by name, shape and bits.
        assert start.keys() == before.keys()
        for name in before:
            np.testing.assert_array_equal(start[name], before[name])
            ours, theirs = end[name] - start[name], after[name] - before[name]
            distance = np.linalg.norm(ours - theirs)
            assert distance <= 0.1 * np.linalg.norm(theirs), (shape, name)
        assert other == pytest.approx(loss, rel=1e-3)


@pytest.mark.extended
@pytest.mark.parametrize("layers", [(), ("pool1", "conv3", "norm2")])
def test_layers_can_be_asked_for(layers):
    images = jax.random.uniform(jax.random.key(1), (2, 67, 67, 3), maxval=255.0)
    model = tiny(EIGHTS, dtype="bfloat16", implementation="xla")
    variables = model.init(jax.random.key(0), images)
    found = []
    for implementation in ("xla", "interpret"):
        other = model.clone(implementation=implementation)
        outputs = other.apply(variables, images, layers=layers)
        found.append(jax.tree.leaves(outputs))
    for ours, theirs in zip(*found, strict=True):
        assert ours.shape == theirs.shape
        distance = np.linalg.norm(wide(ours) - wide(theirs))
        assert distance <= 0.02 * np.linalg.norm(wide(theirs))


H100 = Device("gpu", "NVIDIA H100 80GB HBM3", 9.0)
FUSED = {
    *("code2012", "paper", "owt", "conv6", "no_norm", "one_tower", "no_exchange"),
    *("no_crops", "no_colour", "no_dropout", "no_conv4", "no_conv5", "no_fc7"),
}
WHY_NOT = {
    "caffe": "model.norm_across_towers=False, not True",
    "caffenet": "model.norm_across_towers=False, not True",
    "pool_2x2": "model.pool_window=3, not 2",
    "tanh": "model.activation=relu, not tanh",
    "sigmoid": "model.activation=relu, not sigmoid",
    "small": "model.pool_partial=False, not True",
    "four_layers": "model.pool_partial=False, not True",
    "four_layers_norm": "model.pool_partial=False, not True",
    **{
        f"cifar_{name}": "model.pool_partial=False, not True"
        for name in ("80sec", "19pct", "13pct", "11pct")
    },
}


def network(preset="code2012", **changes):
    asked = {"implementation": "fused", "dtype": "bfloat16", **changes}
    return AlexNet.from_preset(preset, num_classes=10, **asked)


def test_presets_run_fused_or_say_why_not():
    decisions = {name: decide(network(name), H100) for name in PRESETS}
    fused = {name for name, (runs, _) in decisions.items() if runs == "fused"}
    assert fused == FUSED
    for name, text in WHY_NOT.items():
        assert decisions[name].runs == "xla"
        assert decisions[name].reason == f"the kernels take {text}"
    assert {*FUSED, *WHY_NOT} == set(PRESETS)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dtype": "float32"}, "take model.dtype=bfloat16, not float32"),
        ({"norm_size": 3}, "take model.norm_size=5, not 3"),
        ({"norm_beta": 0.5}, "take model.norm_beta=0.75, not 0.5"),
        ({"norm_alpha": 0.0}, "model.norm_alpha=0.0 is too small"),
        ({"pool_stride": 3}, "take model.pool_stride=2, not 3"),
        (
            {"layers": changed(CODE2012, conv4={"channels": 24})},
            "model.layers.conv4 has 12 channels a tower",
        ),
        (
            {"layers": changed(CODE2012, conv1={"then": ("norm", "activation")})},
            "don't take model.layers.conv1.then=('norm', 'activation')",
        ),
    ],
)
def test_what_the_kernels_do_not_take_is_named(changes, text):
    runs, reason = decide(network(**changes), H100)
    assert runs == "xla" and reason is not None and text in reason


def test_devices_without_the_kernels_are_named():
    cpu, old = Device("cpu", "cpu", None), Device("gpu", "NVIDIA T4", 7.5)
    assert decide(network(), cpu).reason is not None
    assert "T4 has compute capability 7.5" in str(decide(network(), old).reason)
    # Compiled for a card that is not here, nothing of it may be known but its kind.
    assert decide(network(), H100._replace(capability=None)).runs == "fused"
    # AMD's say `gpu` as well, and have a name for a number.
    amd = SimpleNamespace(
        platform="gpu", device_kind="AMD Instinct MI300X", compute_capability="gfx942"
    )
    decision = decide(network(), describe(amd))
    assert decision.runs == "xla" and "for NVIDIA GPUs" in str(decision.reason)
    assert decide(network(implementation="auto"), describe(amd)) == ("xla", None)
    nvidia = SimpleNamespace(platform="gpu", device_kind="A", compute_capability="9.0")
    assert describe(nvidia) == Device("gpu", "A", 9.0)
    # Nobody asked for what `auto` does not choose.
    for implementation in ("auto", "xla"):
        assert decide(network(implementation=implementation), cpu) == ("xla", None)
    assert decide(network(implementation="interpret"), cpu).runs == "interpret"


def test_an_unknown_implementation_is_named():
    with pytest.raises(InputError, match=r"model.implementation.*auto, xla, fused"):
        network(implementation="cuda")


def test_fused_on_a_cpu_computes_what_xla_does():
    images = jnp.ones((1, 67, 67, 3))
    model = tiny(EIGHTS, dtype="bfloat16", implementation="fused")
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    programs = [
        str(jax.make_jaxpr(network.apply)(variables, images))
        for network in (model, model.clone(implementation="xla"))
    ]
    assert programs[0] == programs[1]
    kernels = model.clone(implementation="interpret").apply
    assert "pure_callback" in str(jax.make_jaxpr(kernels)(variables, images))
