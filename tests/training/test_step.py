import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax.data.loading.later_recipes import OPERATIONS
from alexnet_jax.nn import alexnet, towers
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runtime.errors import Diverged
from alexnet_jax.training import (
    finite,
    optimizer,
    optimizer_state,
    preprocess,
    spikes,
    step,
)
from alexnet_jax.training.schedule import make_schedule

from networks import (
    batches,
    each_preset,
    equations,
    flat,
    laid_out,
    logits_of,
    mesh_of,
    parts,
    placed,
    replicated,
    tiny,
    traced,
)


# Low, so that rounding does not grow much within a few steps.
RATE = 1e-4


def trained(shape, model, size, batch_size, steps=5):
    """States before and after each of some steps, and the losses."""
    state, train = parts(model, mesh_of(*shape), size, rate=RATE)
    states, losses = [flat(state._asdict())], []
    for batch in batches(steps, batch_size=batch_size, size=size):
        state, metrics = train(state, batch)
        states.append(flat(state._asdict()))
        losses.append(float(metrics["loss"]) / batch_size)
    return states, losses


def without_gradient(before, after, rate):
    """Names of the arrays, by tower, whose gradient in a step was nothing.

    The gradient is worked out of the update rule: momentum and decay alone move an
    array too, so that it moved proves nothing.
    """
    found = []
    for name, weights in before.items():
        if not name.startswith("params."):
            continue
        velocity = name.replace("params.", "opt_state.1.velocity.")
        bias = name.endswith("bias")
        own_rate, decay = (2 * rate, 0.0) if bias else (rate, 0.0005)
        old = 0.9 * before[velocity].astype(np.float64) / own_rate
        new = after[velocity].astype(np.float64) / own_rate
        decayed = decay * weights.astype(np.float64)
        gradient = old - new - decayed
        towers = range(2) if weights.ndim > 1 else [...]
        for tower in towers:
            size = np.linalg.norm(gradient[tower])
            rounding = np.linalg.norm(old[tower]) + np.linalg.norm(decayed[tower])
            if not size > 1e-4 * rounding or size == 0:
                found.append((name, tower))
    return found


def assert_same(states, others):
    for state, other in zip(states, others, strict=True):
        for name in state:
            np.testing.assert_array_equal(state[name], other[name], err_msg=name)


SMALL = {"model": tiny(), "size": 67, "batch_size": 4}


@pytest.mark.slow
def test_every_mesh_trains_alike():
    assert_alike_on_every_mesh(**SMALL)


@pytest.mark.extended
def test_every_mesh_trains_alike_at_full_size():
    assert_alike_on_every_mesh(AlexNet(num_classes=10), 224, 4, steps=3)


def assert_alike_on_every_mesh(model, size, batch_size, steps=5):
    """One device and one a tower give the same bits, after each step; two along the
    data agree to rounding."""
    states, losses = trained((1, 1), model, size, batch_size, steps)
    others, other_losses = trained((1, 2), model, size, batch_size, steps)
    assert_same(states, others)
    assert losses == other_losses
    assert len(set(losses)) == steps
    for before, after in zip(states[:-1], states[1:], strict=True):
        assert without_gradient(before, after, rate=RATE) == []

    split, split_losses = trained((2, 1), model, size, batch_size, steps)
    for name, array in states[1].items():
        if not np.isfinite(array).all():
            assert name == "opt_state.1.best_error"
            continue
        difference = np.linalg.norm(split[1][name].astype(float) - array)
        assert difference <= 1e-5 * np.linalg.norm(array.astype(float)), name
    np.testing.assert_allclose(split_losses, losses, rtol=0.01)


@pytest.mark.extended
def test_a_gradient_of_nothing_is_noticed():
    """The check above sees a tower that only momentum and decay move."""
    state, train = parts(tiny(), mesh_of(1, 1), 67, rate=RATE)
    states = []
    for batch in batches(2, batch_size=4, size=67):
        states.append(flat(state._asdict()))
        state, _ = train(state, batch)
    before, after = states[1], flat(state._asdict())
    assert without_gradient(before, after, rate=RATE) == []
    name = "opt_state.1.velocity.conv4.kernel"
    weights = before["params.conv4.kernel"][1]
    coasting = 0.9 * before[name][1] - np.float32(RATE * 0.0005) * weights
    after[name] = np.stack([after[name][0], coasting])
    assert without_gradient(before, after, rate=RATE) == [("params.conv4.kernel", 1)]


@pytest.mark.extended
def test_the_bits_depend_on_the_tower_in_the_dropout_key(monkeypatch):
    """Were a device's place folded in instead, towers on one device would differ."""
    whole, _ = trained((1, 1), **SMALL)
    indices = alexnet.AlexNet._tower_indices
    monkeypatch.setattr(
        alexnet.AlexNet, "_tower_indices", lambda self: list(range(len(indices(self))))
    )
    split, _ = trained((1, 2), **SMALL)
    # Parameters start alike, as they are drawn outside the mesh.
    np.testing.assert_equal(split[0], whole[0])
    with pytest.raises(AssertionError):
        assert_same(whole, split)


@pytest.mark.extended
def test_gradients_equal_those_of_the_network_without_a_mesh():
    """One plain step, written out, against the sharded one on every mesh. The first
    step's velocity shows the gradient without the rounding of the parameters."""
    model, size = SMALL["model"], SMALL["size"]
    batch = next(batches(1, batch_size=SMALL["batch_size"], size=size))
    mean = np.full((size, size, 3), 120, np.float32)
    first = None
    for shape in ((1, 1), (1, 2), (2, 1)):
        state, train = parts(model, mesh_of(*shape), size, rate=RATE)
        params = flat(state.params)
        if first is None:
            tree = jax.device_get(state.params)
            shift = 0.1 * batch["colour_shift"][:, None, None, :]
            images = (batch["image"].astype(np.float32) - mean + shift) / 1.1

            def loss(tree, images=images):
                key = jax.random.fold_in(jax.random.key(0), 0)
                logits = logits_of(model, {"params": tree}, images, dropout_key=key)
                own = jnp.asarray(batch["label"])[:, None]
                chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), own, axis=1)
                return -chosen.mean()

            first = flat(jax.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, tree)))
        state, _ = train(state, batch)
        after = flat(state._asdict())
        for name, gradient in first.items():
            bias = name.endswith("bias")
            rate, decay = (2 * RATE, 0.0) if bias else (RATE, 0.0005)
            expected = -rate * (gradient + decay * params[name])
            velocity = after[f"opt_state.1.velocity.{name}"]
            tolerance = 1e-4 * np.linalg.norm(expected)
            assert np.linalg.norm(velocity - expected) <= tolerance, (shape, name)


@pytest.mark.slow
def test_every_mesh_starts_with_the_same_bits():
    model = tiny()
    schedule = make_schedule(steps_per_epoch=1)
    sgd = optimizer.momentum_sgd(schedule)
    starts = [
        flat(step.init_state(model, sgd, mesh_of(*shape), 67, 3)._asdict())
        for shape in ((1, 1), (1, 2), (2, 1))
    ]
    assert_same(starts[:1] * 2, starts[1:])
    other = flat(step.init_state(model, sgd, mesh_of(1, 1), 67, 4)._asdict())
    name = "params.conv1.kernel"
    assert not np.array_equal(other[name], starts[0][name])
    # And they are the bits that the module's own init draws.
    variables = jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 67, 67, 3)))
    for name, array in flat(variables).items():
        np.testing.assert_allclose(array, starts[0][name], rtol=1e-6)


@pytest.mark.extended
def test_a_device_draws_its_own_towers_alone():
    def temporary(mesh):
        initial = step.make_initial(tiny(), optax.identity(), mesh, 67)
        assert isinstance(initial, jax.stages.Wrapped)
        memory = initial.lower(step.root_key(0)).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert temporary(mesh_of(1, 2)) < 0.6 * temporary(mesh_of(1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [lambda rule: rule, spikes.skipping_spikes])
def test_the_step_compiles_once(wrapped):
    model, mesh = tiny(), mesh_of(1, 2)
    schedule = make_schedule(steps_per_epoch=1)
    sgd = wrapped(optimizer.momentum_sgd(schedule))
    state = step.init_state(model, sgd, mesh, 67, 0)
    train = step.make_train_step(model, sgd, schedule, mesh, 0)
    mean = jax.device_put(np.zeros((67, 67, 3), np.float32), replicated(mesh))
    for batch in batches(3, batch_size=2, size=67):
        state, _ = train(state, placed(batch, mesh), mean)
    # JAX's count of the programs compiled has no public name.
    assert train._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.extended
def test_layer_wise_rates_are_the_same_on_every_mesh():
    """A kernel's norm is that of a tower, wherever that lies (`trust_coefficient`)."""
    found = []
    for shape in ((1, 1), (1, 2)):
        mesh, schedule = mesh_of(*shape), make_schedule(steps_per_epoch=1)
        rule = optimizer.momentum_sgd(schedule, trust_coefficient=0.01)
        state = step.init_state(tiny(), rule, mesh, 67, 0)
        train = step.make_train_step(tiny(), rule, schedule, mesh, 0)
        mean = jax.device_put(np.zeros((67, 67, 3), np.float32), replicated(mesh))
        for batch in batches(3, batch_size=2, size=67):
            state, _ = train(state, placed(batch, mesh), mean)
        found.append(flat(state.params))
    for name, array in found[0].items():
        np.testing.assert_allclose(found[1][name], array, rtol=1e-5, err_msg=name)


NARROW = (jnp.bfloat16, jnp.float16)
SUMS = {
    *("reduce_sum", "cumsum", "reduce_window_sum", "scatter-add", "scatter_add"),
    "select_and_scatter_add",
}


def narrow_sums(model, size):
    """The sums of a step over values that are narrower than 32 bits."""
    return [
        equation
        for equation in equations(traced(model, size).jaxpr.jaxpr)
        if equation.primitive.name in SUMS
        and getattr(equation.invars[0].aval, "dtype", None) in NARROW
    ]


def test_a_step_in_half_precision_sums_in_float32():
    """A GPU would add bfloat16 as it stands; on a CPU the result would not show it."""
    assert narrow_sums(tiny(dtype="bfloat16"), 67) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", each_preset())
def test_every_preset_sums_in_float32(name):
    model = AlexNet.from_preset(name, num_classes=10, dtype="bfloat16")
    size = next(size for size in range(64, 100) if model.sizes(size))
    assert narrow_sums(model, size) == []


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_step_lowers_for_other_platforms_in_bfloat16(platform):
    """Where there is no such device to compile it: no operation is for CPU alone."""
    lowered = traced(tiny(dtype="bfloat16"), 67).lower(lowering_platforms=(platform,))
    assert "stablehlo.convolution" in lowered.as_text()


@pytest.mark.slow
def test_the_full_step_has_no_grouped_convolution():
    lowered = traced(AlexNet(num_classes=10), 224).lower()
    for text in (lowered.as_text(), lowered.compile().as_text()):
        assert text is not None and "convolution" in text
        counts = re.findall(r"(?:feature|batch)_group_count ?= ?(\d+)", text)
        assert set(counts) <= {"1"}


def test_colours_are_shifted_as_in_the_2012_code():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 5, 5, 3), dtype=np.uint8)
    mean = rng.uniform(0, 255, (5, 5, 3)).astype(np.float32)
    shift = rng.normal(0, 20, (3, 3)).astype(np.float32)

    def shifted(coefficient):
        return preprocess.shift_colours(
            jnp.asarray(images), jnp.asarray(mean), jnp.asarray(shift), coefficient
        )

    for n, row, column in np.ndindex(3, 5, 5):
        plain = images[n, row, column].astype(np.float64) - mean[row, column]
        np.testing.assert_allclose(
            shifted(jnp.float32(0.1))[n, row, column],
            (plain + 0.1 * shift[n]) / 1.1,
            rtol=1e-5,
            atol=1e-4,
        )
        np.testing.assert_array_equal(
            shifted(jnp.float32(0.0))[n, row, column], plain.astype(np.float32)
        )


@pytest.mark.parametrize(("size", "crop"), [(256, 224), (77, 67), (8, 5), (6, 6)])
def test_each_of_the_ten_views_equals_the_crop_made_by_hand(size, crop):
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    views = np.asarray(preprocess.cut_views(jnp.asarray(images), crop=crop, views=10))
    border, middle = size - crop, (size - crop) // 2
    expected = [
        images[:, :crop, :crop],
        images[:, :crop, border:],
        images[:, middle : middle + crop, middle : middle + crop],
        images[:, border:, :crop],
        images[:, border:, border:],
    ]
    for index, crop_by_hand in enumerate(expected):
        np.testing.assert_array_equal(views[:, index], crop_by_hand)
        mirrored = np.flip(crop_by_hand, axis=2)
        np.testing.assert_array_equal(views[:, 5 + index], mirrored)
    one = preprocess.cut_views(jnp.asarray(images), crop=crop, views=1)
    np.testing.assert_array_equal(one[:, 0], expected[2])
    five = preprocess.cut_views(jnp.asarray(images), crop=crop, views=10, mirrors=False)
    np.testing.assert_array_equal(five, views[:, :5])
    with pytest.raises(ValueError, match="1 or 10"):
        preprocess.cut_views(jnp.asarray(images), crop=crop, views=5)


def test_each_image_has_its_part_of_its_partner():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 5, 5, 3)).astype(np.float32)
    weights = np.array([0.25, 0.25, 0.9, 0.9], np.float32)
    expected = np.zeros_like(images)
    for image, weight in enumerate(weights):
        expected[image] = weight * images[image] + (1 - weight) * images[image ^ 1]
    found = preprocess.mix_pairs(jnp.asarray(images), jnp.asarray(weights))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_patch_of_each_image_is_its_partners():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 7, 7, 3)).astype(np.float32)
    patches = [[1, 2, 3, 5], [1, 2, 3, 5], [6, 0, 1, 1], [6, 0, 1, 1]]
    expected = images.copy()
    for image, (top, left, height, width) in enumerate(patches):
        for row in range(top, top + height):
            for column in range(left, left + width):
                expected[image, row, column] = images[image ^ 1, row, column]
    found = preprocess.paste_pairs(jnp.asarray(images), jnp.asarray(patches))
    np.testing.assert_array_equal(found, expected)
    nothing = jnp.zeros((4, 4), jnp.int32)
    np.testing.assert_array_equal(
        preprocess.paste_pairs(jnp.asarray(images), nothing), images
    )


@pytest.mark.extended
def test_mixed_pairs_and_smoothed_labels_are_those_of_the_images_on_every_mesh():
    model = AlexNet.from_preset("four_layers", num_classes=5)
    rule = optimizer.momentum_sgd(make_schedule(steps_per_epoch=9, learning_rate=0.01))
    (batch,) = batches(1, batch_size=8, size=12)
    weight = np.repeat(np.linspace(0, 1, 4, dtype=np.float32), 2)

    def on(shape):
        mesh = mesh_of(*shape, towers=1)
        schedule = make_schedule(steps_per_epoch=9, learning_rate=0.01)
        initial = step.make_initial(model, rule, mesh, 12)
        train = step.make_train_step(
            model, rule, schedule, mesh, 0, label_smoothing=0.1
        )
        mean = jax.device_put(np.zeros((12, 12, 3), np.float32), replicated(mesh))

        def after(batch):
            start = initial(step.root_key(0))
            state, sums = train(start, placed(batch, mesh), mean)
            return flat(state.params), float(sums["loss"])

        return after

    alone = on((1, 1))
    params, loss = alone({**batch, "weight": weight})
    divided, same = on((2, 1))({**batch, "weight": weight})
    assert same == pytest.approx(loss, rel=1e-5)
    for name, array in params.items():
        np.testing.assert_allclose(divided[name], array, rtol=1e-4, atol=1e-6)
    # All weight on the partner is the batch in another order.
    order = [1, 0, 3, 2, 5, 4, 7, 6]
    swapped = {name: array[order] for name, array in batch.items()}
    _, ours = alone({**batch, "weight": np.zeros(8, np.float32)})
    _, theirs = alone(swapped)
    assert ours == pytest.approx(theirs, rel=1e-5)
    # So is a patch as large as an image; and an operation of strength 0 is none.
    whole = np.asarray([[0, 0, 12, 12]] * 8, np.int32)
    recipes = {
        "weight": np.zeros(8, np.float32),
        "patch": whole,
        "operation": np.full((8, 2), OPERATIONS.index("rotate"), np.int32),
        "strength": np.zeros((8, 2), np.float32),
    }
    _, pasted = alone({**batch, **recipes})
    assert pasted == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(1, 1), pytest.param((1, 2), marks=pytest.mark.extended)]
)
def test_a_state_that_is_not_finite_is_noticed_on_every_mesh(shape):
    """One number of a velocity: it reaches the parameters with the next step."""
    (batch,) = batches(1, batch_size=4, size=67)
    start, train_step = parts(tiny(), mesh_of(*shape), 67, rate=RATE)
    finite.check_state(0, start)
    for value in (np.nan, np.inf, -np.inf):
        # A step takes its state's memory.
        state = jax.tree.map(jnp.copy, start)
        rule = optimizer_state.rule_state(state.opt_state)
        kernel = rule.velocity["fc7"]["kernel"]
        host = np.array(kernel)
        host[0, 0, 0] = value
        kernel = jax.device_put(host, kernel.sharding)
        velocity = {**rule.velocity, "fc7": {**rule.velocity["fc7"], "kernel": kernel}}
        opt_state = (*state.opt_state[:-1], rule._replace(velocity=velocity))
        bad, _ = train_step(state._replace(opt_state=opt_state), batch)
        with pytest.raises(Diverged, match="step 1: the state is no longer finite"):
            finite.check_state(1, bad)


def test_padding_counts_for_nothing():
    model, mesh = tiny(), mesh_of(2, 1)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 67, 67, 3)))
    params = laid_out(variables["params"], model, mesh, 67)
    evaluate = step.make_eval_step(model, mesh, crop=67, views=10)
    mean = jax.device_put(np.zeros((67, 67, 3), np.float32), replicated(mesh))
    batch = next(batches(1, batch_size=6, size=77))
    batch = {"image": batch["image"], "label": batch["label"], "mask": np.ones(6, bool)}
    whole, logits = evaluate(params, placed(batch, mesh), mean)
    assert logits.shape == (6, 10, 5)
    batch["mask"] = np.arange(6) < 4
    masked, _ = evaluate(params, placed(batch, mesh), mean)
    assert float(masked["examples"]) == 4
    batch["mask"] = np.arange(6) >= 4
    rest, _ = evaluate(params, placed(batch, mesh), mean)
    for name in whole:
        np.testing.assert_allclose(whole[name], masked[name] + rest[name], rtol=1e-6)


@contextlib.contextmanager
def other_settings():
    """64-bit mode, another generator of random numbers, the other way to draw."""
    with (
        jax.enable_x64(True),
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False),
    ):
        yield


def test_settings_of_the_process_change_no_draw():
    def drawn():
        key = step.root_key(3)
        layer = towers.TowerParameters(
            shape=(3, 3, 2, 4), kernel_std=0.1, bias=0.0, bias_by_tower=True
        )
        kernels = layer.init(key, [0, 1])
        places = jnp.arange(2, dtype=jnp.int32)
        ones = [jnp.ones((2, 50), jnp.float32)] * 2
        masks = towers.dropout(ones, [0, 1], key, layer=5, examples=places, keep=0.7)
        return flat((kernels, masks))

    usual = drawn()
    with other_settings():
        other = drawn()
    for name, array in usual.items():
        assert other[name].dtype == array.dtype, name
        np.testing.assert_array_equal(other[name], array, err_msg=name)


@pytest.mark.extended
def test_settings_of_the_process_change_no_bit():
    usual = trained((1, 1), **SMALL)
    with other_settings():
        other = trained((1, 1), **SMALL)
    assert other[1] == usual[1]
    for found, expected in zip(other[0], usual[0], strict=True):
        for name, array in expected.items():
            assert found[name].dtype == array.dtype, name
            np.testing.assert_array_equal(found[name], array, err_msg=name)
