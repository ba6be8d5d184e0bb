"""Cross-entropy and errors, as sums and counts that add over batches and devices."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def log_mean_probabilities(
    logits: Float[Array, "examples views classes"],
) -> Float[Array, "examples classes"]:
    """Logarithm of the probabilities averaged over views (section 4.1).

    The paper averages the outputs of the softmax, not the logits. The logarithm is kept
    so that a loss stays finite where a probability underflows.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    views = jnp.log(jnp.asarray(logits.shape[1], logits.dtype))
    return jax.nn.logsumexp(log_probabilities, axis=1) - views


def rank(
    scores: Float[Array, "examples classes"], labels: Int[Array, " examples"]
) -> Int[Array, " examples"]:
    """How many classes score above the label; ties count in the order of the classes.

    A score that is not a number ranks its example last, so that a network that has
    diverged is never counted as correct.
    """
    label = labels[:, None]
    own = jnp.take_along_axis(scores, label, axis=1)
    classes = jnp.arange(scores.shape[1], dtype=labels.dtype)[None, :]
    before = (scores > own) | ((scores == own) & (classes < label))
    broken = jnp.any(jnp.isnan(scores), axis=1)
    return jnp.where(broken, scores.shape[1], jnp.sum(before, axis=1, dtype=jnp.int32))


def sums(
    log_probabilities: Float[Array, "examples classes"],
    labels: Int[Array, " examples"],
    mask: Bool[Array, " examples"],
) -> dict[str, Float[Array, ""]]:
    """Sums of loss and errors over the examples under the mask, and their count."""
    own = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    place = rank(log_probabilities, labels)

    def total(values: Array) -> Array:
        return jnp.sum(jnp.where(mask, values.astype(jnp.float32), 0))

    return {
        "loss": total(-own),
        "top1_error": total(place >= 1),
        "top5_error": total(place >= 5),
        "examples": total(jnp.ones_like(mask)),
    }


def of_targets(
    log_probabilities: Float[Array, "examples classes"],
    labels: Int[Array, " examples"],
    *,
    weight: Float[Array, " examples"] | None = None,
    smoothing: float = 0.0,
) -> Float[Array, ""]:
    """The sum of the cross-entropies with targets that are no single labels.

    Args:
      log_probabilities: of each example.
      labels: of each example.
      weight: of its own label; the rest of 1 goes to that of its partner in the pair
        (see `preprocess.mix_pairs`). None for its own label alone.
      smoothing: the part of each target that is spread evenly over all classes.
    """

    def cross_entropy(labels: Array) -> Array:
        return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]

    losses = cross_entropy(labels)
    if weight is not None:
        partners = labels.reshape(-1, 2)[:, ::-1].reshape(-1)
        losses = weight * losses + (1 - weight) * cross_entropy(partners)
    if smoothing:
        spread = -jnp.mean(log_probabilities, axis=1)
        losses = (1 - smoothing) * losses + smoothing * spread
    return jnp.sum(losses)


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Mean loss and errors (fractions) over all examples, from sums over batches."""
    examples = float(sums["examples"])
    names = ("loss", "top1_error", "top5_error")
    # A network that is quite sure has a loss of -0.0, the logarithm of 1 negated.
    return {name: float(sums[name]) / examples + 0.0 for name in names}
