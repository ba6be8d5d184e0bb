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


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Mean loss and errors (fractions) over all examples, from sums over batches."""
    examples = float(sums["examples"])
    names = ("loss", "top1_error", "top5_error")
    # A network that is quite sure has a loss of -0.0, the logarithm of 1 negated.
    return {name: float(sums[name]) / examples + 0.0 for name in names}
