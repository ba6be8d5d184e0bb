import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.training import losses

from references import recount


@pytest.mark.parametrize("views", [1, 10])
def test_sums_equal_a_recount_and_add(views):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (40, views, 12)).astype(np.float32)
    labels = rng.integers(0, 12, 40).astype(np.int32)
    mask = rng.random(40) < 0.8

    def sums(part):
        log_mean = losses.log_mean_probabilities(jnp.asarray(logits[part]))
        return losses.sums(log_mean, jnp.asarray(labels[part]), jnp.asarray(mask[part]))

    whole = sums(slice(None))
    for name, value in recount(logits, labels, mask).items():
        np.testing.assert_allclose(whole[name], value, rtol=1e-6)
        parts = sums(slice(0, 17))[name] + sums(slice(17, None))[name]
        np.testing.assert_allclose(parts, value, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_loss_of_a_target_is_a_cross_entropy_with_a_distribution(smoothing, mixed):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (6, 5)).astype(np.float32)
    labels = rng.integers(0, 5, 6).astype(np.int32)
    weight = np.repeat(rng.random(3), 2).astype(np.float32) if mixed else None
    targets = np.eye(5)[labels]
    if weight is not None:
        partners = targets[[1, 0, 3, 2, 5, 4]]
        targets = weight[:, None] * targets + (1 - weight[:, None]) * partners
    targets = (1 - smoothing) * targets + smoothing / 5
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = losses.sums(
        jnp.log(chances),
        jnp.asarray(labels),
        jnp.ones(6, bool),
        weight=None if weight is None else jnp.asarray(weight),
        smoothing=smoothing,
    )
    expected = -(targets * np.log(chances)).sum()
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_error_of_a_mixed_pair_counts_both_labels(smoothing):
    """A network that names one of the two labels errs by the other's weight."""
    labels = np.array([0, 1, 2, 3, 4, 4], np.int32)
    weight = np.array([0.7, 0.7, 0.2, 0.2, 0.4, 0.4], np.float32)
    # Right of its own, of its partner's, of neither; both of the last pair are one.
    answers = np.array([0, 0, 3, 0, 4, 1])
    found = losses.sums(
        jax.nn.log_softmax(jnp.asarray(np.eye(12, dtype=np.float32)[answers])),
        jnp.asarray(labels),
        jnp.ones(6, bool),
        weight=jnp.asarray(weight),
        smoothing=smoothing,
    )
    errors = [1 - 0.7, 1 - 0.3, 1 - 0.8, 1, 0, 1]
    np.testing.assert_allclose(found["top1_error"], sum(errors), rtol=1e-6)
    # Among the first five, in the order of classes: all labels here.
    assert found["top5_error"] == 0
    assert found["examples"] == 6


def test_ties_go_in_the_order_of_the_classes_as_argmax_does():
    scores = jnp.asarray([[1.0, 2.0, 2.0, 0.0]] * 4)
    labels = jnp.asarray([0, 1, 2, 3], jnp.int32)
    np.testing.assert_array_equal(losses.rank(scores, labels), [2, 0, 1, 3])


def test_what_is_not_a_number_is_never_right():
    scores = jnp.asarray([[jnp.nan, jnp.nan], [1.0, jnp.nan]])
    places = losses.rank(scores, jnp.asarray([0, 0], jnp.int32))
    np.testing.assert_array_equal(places, [2, 2])


def test_the_loss_stays_finite_where_a_probability_underflows():
    logits = jnp.asarray([[[0.0, 500.0]], [[500.0, 0.0]]])
    log_mean = losses.log_mean_probabilities(logits)
    np.testing.assert_allclose(log_mean[:, 0], [-500.0, 0.0])
