from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import PyTree

from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training.optimizer import after_validation, momentum_sgd
from alexnet_jax.training.optimizer_state import (
    begin_with,
    learning_params,
    rule_state,
    with_rule_state,
)
from alexnet_jax.training.schedule import make_schedule
from alexnet_jax.training.spikes import skipping_spikes


def start(seed=0):
    rng = np.random.default_rng(seed)
    return {
        layer: {
            "kernel": rng.normal(size=(2, 4, 3)).astype(np.float32),
            "bias": rng.normal(size=(2, 3)).astype(np.float32),
        }
        for layer in ("conv1", "conv2", "fc3")
    }


def gradients(step):
    return start(100 + step)


def run(optimizer, steps, params=None):
    params = start() if params is None else params
    state = optimizer.init(params)
    history = []
    for step in range(steps):
        updates, state = jax.jit(optimizer.update)(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history, state


def numpy_rule(steps, *, rate, decay, momentum=0.9):
    """v <- m v - d rate w - rate g; w <- w + v, parameter by parameter, in float64."""
    params = jax.tree.map(np.float64, start())
    velocity = jax.tree.map(np.zeros_like, params)
    for step in range(steps):
        for layer, group in params.items():
            for kind in group:
                e, d = rate(step, layer, kind), decay(layer, kind)
                if e == 0:
                    continue
                g = np.float64(gradients(step)[layer][kind])
                v = momentum * velocity[layer][kind] - d * e * group[kind] - e * g
                velocity[layer][kind] = v
                group[kind] = group[kind] + v
    return params


def assert_close(params, expected):
    for layer, group in expected.items():
        for kind, value in group.items():
            np.testing.assert_allclose(
                params[layer][kind], value, rtol=1e-5, atol=1e-6, err_msg=f"{layer}"
            )


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"momentum": 1.0}, "optimizer.momentum=1.0 must lie from 0 to below 1"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay=-1.0 must not be negative"),
        ({"bias_rate": float("inf")}, "optimizer.bias_rate=inf must be finite"),
        ({"average": 1.0}, "optimizer.average=1.0 must lie from 0 to below 1"),
    ],
)
def test_numbers_out_of_range(settings, shown):
    with pytest.raises(InputError, match=shown):
        momentum_sgd(make_schedule(steps_per_epoch=10), **settings)


def test_thirty_steps_with_two_drops_equal_a_numpy_loop():
    schedule = make_schedule(
        steps_per_epoch=10,
        kind="steps",
        learning_rate=0.01,
        epochs=(1, 2),
        bias_drops=1,
    )
    optimizer = momentum_sgd(schedule, layer_decays={"fc3": 3.0}, weight_decay=0.05)
    history, _ = run(optimizer, 30)

    def rate(step, layer, kind):
        drops = step // 10
        return 0.02 * 0.1 ** min(drops, 1) if kind == "bias" else 0.01 * 0.1**drops

    def decay(layer, kind):
        return 0 if kind == "bias" else 0.05 * (3 if layer == "fc3" else 1)

    assert_close(history[-1], numpy_rule(30, rate=rate, decay=decay))


def test_a_decoupled_decay_stays_out_of_the_velocity():
    schedule = make_schedule(
        steps_per_epoch=10, learning_rate=0.01, layer_rates={"conv1": 0.0}
    )
    rule = momentum_sgd(
        schedule, weight_decay=0.5, layer_decays={"fc3": 3.0}, decoupled_decay=True
    )
    history, _ = run(rule, 12)
    params = jax.tree.map(np.float64, start())
    velocity = jax.tree.map(np.zeros_like, params)
    for step in range(12):
        for layer in ("conv2", "fc3"):
            for kind, rate in (("kernel", 0.01), ("bias", 0.02)):
                v, w = velocity[layer], params[layer]
                v[kind] = 0.9 * v[kind] - rate * gradients(step)[layer][kind]
                decay = 0 if kind == "bias" else 0.5 * (3 if layer == "fc3" else 1)
                w[kind] = w[kind] + v[kind] - rate * decay * w[kind]
    assert_close(history[-1], params)


def test_the_average_follows_what_learns():
    """A loop in NumPy over the parameters of the same rule without an average."""
    schedule = make_schedule(steps_per_epoch=10, learning_rate=0.01)
    rule = partial(momentum_sgd, schedule, weight_decay=0.05, bias_weight_decay=0.05)
    learning, _ = run(rule(), 12)
    history, state = run(rule(average=0.4), 12)
    mean = jax.tree.map(np.float64, start())
    for step, params in enumerate(learning):
        kept = min(0.4, (1 + step) / (10 + step))
        mean = jax.tree.map(lambda m, new, k=kept: k * m + (1 - k) * new, mean, params)
        assert_close(history[step], mean)
    assert_close(learning_params(history[-1], state), learning[-1])
    state = after_validation(schedule, state, np.asarray(0.5, np.float32))
    assert rule_state(state).best_error == 0.5
    begun = begin_with(start(7), state)
    assert_close(learning_params(start(7), begun), start(7))


def test_weights_are_averaged_from_an_epoch_on():
    """The plain mean of the parameters after each step from the eighth on."""
    schedules = [
        make_schedule(steps_per_epoch=4, learning_rate=0.01, swa_epochs=epochs)
        for epochs in (None, 1.75)
    ]
    learning, _ = run(momentum_sgd(schedules[0]), 12)
    history, state = run(momentum_sgd(schedules[1]), 12)
    for step in range(7):
        assert_close(history[step], learning[step])
    for step in range(7, 12):
        part = learning[7 : step + 1]
        mean = jax.tree.map(lambda *arrays: np.mean(arrays, axis=0), *part)
        assert_close(history[step], mean)
    assert_close(learning_params(history[-1], state), learning[-1])


def test_only_one_mean_of_the_parameters_is_taken():
    schedule = make_schedule(steps_per_epoch=4, swa_epochs=1.0)
    with pytest.raises(InputError, match="average and schedule.swa_epochs both say"):
        momentum_sgd(schedule, average=0.9)


@pytest.mark.parametrize("average", [None, 0.4])
def test_a_step_whose_loss_is_a_spike_changes_nothing_but_the_count(average):
    """Against a loop that leaves such steps out, by NumPy's order statistics; the rate
    drops by the count at step 110, and the average follows it too."""
    schedule = make_schedule(
        steps_per_epoch=110, kind="steps", learning_rate=0.01, epochs=(1,)
    )
    losses = np.random.default_rng(0).uniform(80, 120, 118).astype(np.float32)
    losses[[40, 100, 103, 104, 112, 115]] = 300, 900, 1300, 1400, 2101, 300
    losses[116:] = np.inf, np.nan
    plain = momentum_sgd(schedule, average=average)
    rule = skipping_spikes(plain)
    update: Any = jax.jit(rule.update)
    reference: Any = jax.jit(plain.update)
    params: PyTree = start()
    expected: PyTree = start()
    state: PyTree = rule.init(params)
    inner: PyTree = plain.init(params)
    skipped = []
    for step, loss in enumerate(losses):
        moves, state = update(gradients(step), state, params, loss=jnp.asarray(loss))
        params = optax.apply_updates(params, moves)
        before = np.sort(losses[max(0, step - 100) : step])
        if step >= 100 and max(2 * before[50], 1.5 * before[-1]) < loss < np.inf:
            skipped.append(step)
            assert state.factor == pytest.approx(loss / before[50])
            count = rule_state(inner).step + 1
            inner = with_rule_state(inner, rule_state(inner)._replace(step=count))
        else:
            assert state.factor == 0
            moves, inner = reference(gradients(step), inner, expected)
            expected = optax.apply_updates(expected, moves)
    # Not those below 1.5 times one before, nor what is not finite.
    assert skipped == [100, 112]
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    jax.tree.map(np.testing.assert_array_equal, state.rule, inner)
    np.testing.assert_array_equal(state.losses, losses[-100:])
    learning = learning_params(expected, inner)
    jax.tree.map(
        np.testing.assert_array_equal, learning_params(params, state), learning
    )
    after: PyTree = after_validation(schedule, state, np.asarray(0.5, np.float32))
    assert rule_state(after).best_error == 0.5
    begun: PyTree = begin_with(start(7), after)
    assert begun.losses is state.losses


def test_the_paper_treats_biases_as_weights():
    schedule = make_schedule(steps_per_epoch=10, kind="steps", learning_rate=0.01)
    optimizer = momentum_sgd(
        schedule, bias_rate=1.0, weight_decay=0.05, bias_weight_decay=0.05
    )
    history, _ = run(optimizer, 10)
    expected = numpy_rule(10, rate=lambda *_: 0.01, decay=lambda *_: 0.05)
    assert_close(history[-1], expected)


def test_a_drop_leaves_the_velocity_as_it_is():
    """The rate stands inside the velocity; with optax.sgd the test would fail."""
    schedule = make_schedule(
        steps_per_epoch=1, kind="steps", learning_rate=1.0, epochs=(1,)
    )
    optimizer = momentum_sgd(schedule, weight_decay=0.0)
    params = {"fc3": {"kernel": jnp.zeros((1, 1, 1))}}
    state = optimizer.init(params)
    one = jax.tree.map(jnp.ones_like, params)
    _, state = optimizer.update(one, state, params)
    updates: PyTree
    updates, _ = optimizer.update(one, state, params)
    np.testing.assert_allclose(updates["fc3"]["kernel"], -0.9 - 0.1, rtol=1e-6)


def test_a_zero_rate_freezes_a_layer_wholly():
    """No decay and no leftover velocity move it, and thawing continues from there."""
    stages = ((0, 1.0), (1, 0.0), (2, 0.5))
    schedule = make_schedule(
        steps_per_epoch=5,
        kind="steps",
        learning_rate=0.01,
        layer_rates={"conv1": stages, "conv2": 0.0},
    )
    optimizer = momentum_sgd(schedule, weight_decay=0.05)
    history, _ = run(optimizer, 15)
    for step in range(5, 10):
        for kind in ("kernel", "bias"):
            frozen = history[4]["conv1"][kind]
            np.testing.assert_array_equal(history[step]["conv1"][kind], frozen)
            np.testing.assert_array_equal(
                history[step]["conv2"][kind], start()["conv2"][kind]
            )
    assert not np.array_equal(history[4]["conv1"]["bias"], start()["conv1"]["bias"])

    def rate(step, layer, kind):
        factor = {"conv1": (1.0, 0.0, 0.5)[step // 5], "conv2": 0.0, "fc3": 1.0}[layer]
        return 0.01 * factor * (2 if kind == "bias" else 1)

    expected = numpy_rule(
        15, rate=rate, decay=lambda _, kind: 0.05 * (kind == "kernel")
    )
    assert_close(history[-1], expected)


def test_the_plateau_drops_three_times_when_the_error_stops_improving():
    schedule = make_schedule(steps_per_epoch=1, learning_rate=0.01, patience=2)
    optimizer = momentum_sgd(schedule)
    state = optimizer.init(start())
    learn = jax.jit(partial(after_validation, schedule))
    errors = [0.9, 0.8, 0.8, 0.81, 0.7, 0.75, 0.75, 0.69, 0.7, 0.7, 0.9, 0.9, 0.9]
    rates = []
    for error in errors:
        state = learn(state, jnp.float32(error))
        rates.append(
            float(schedule.rate(rule_state(state).step, rule_state(state).drops))
        )
    drops = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    np.testing.assert_allclose(rates, [0.01 * 0.1**d for d in drops], rtol=1e-6)
    assert float(rule_state(state).best_error) == pytest.approx(0.69)


def test_a_validation_that_is_not_a_number_counts_as_no_better():
    schedule = make_schedule(steps_per_epoch=1, patience=1)
    state = momentum_sgd(schedule).init(start())
    state = after_validation(schedule, state, jnp.float32(jnp.nan))
    assert int(rule_state(state).drops) == 1
    assert float(rule_state(state).best_error) == np.inf


def test_layer_wise_rates_scale_each_towers_kernel_by_its_own_norm():
    """Against the rule of You et al. written out; biases take the plain rule."""
    schedule = make_schedule(steps_per_epoch=1, kind="steps", learning_rate=2.0)
    optimizer = momentum_sgd(schedule, trust_coefficient=0.001, weight_decay=0.05)
    history, _ = run(optimizer, 3)

    expected = jax.tree.map(np.float64, start())
    velocity = jax.tree.map(np.zeros_like, expected)
    for step in range(3):
        for layer, group in expected.items():
            for kind in group:
                g = np.float64(gradients(step)[layer][kind])
                if kind == "kernel":
                    g = g + 0.05 * group[kind]
                    for tower in range(2):
                        norm = np.linalg.norm(group[kind][tower])
                        g[tower] *= 0.001 * norm / np.linalg.norm(g[tower])
                rate = 2.0 if kind == "kernel" else 4.0
                velocity[layer][kind] = 0.9 * velocity[layer][kind] - rate * g
                group[kind] = group[kind] + velocity[layer][kind]
    assert_close(history[-1], expected)


def test_a_rate_for_a_layer_that_is_not_there():
    schedule = make_schedule(steps_per_epoch=1, layer_rates={"conv7": 0.1})
    with pytest.raises(InputError, match="conv7, but the layers are conv1, conv2, fc3"):
        momentum_sgd(schedule).init(start())
