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
    *,
    weight: Float[Array, " examples"] | None = None,
    smoothing: float = 0.0,
) -> dict[str, Float[Array, ""]]:
    """Sums of loss and errors over the examples under the mask, and their count.

    Args:
      log_probabilities: of each example.
      labels: of each example.
      mask: which examples count.
      weight: in loss and errors, of an example's own label; the rest of 1 goes to that
        of its partner in the pair (see `preprocess.mix_pairs`), as in the code of Zhang
        et al. 2018. None for its own label alone.
      smoothing: the part of the loss's target that is spread evenly over all classes.
    """

    def measured(labels: Array) -> dict[str, Array]:
        own = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
        place = rank(log_probabilities, labels)
        return {
            "loss": -own,
            "top1_error": (place >= 1).astype(jnp.float32),
            "top5_error": (place >= 5).astype(jnp.float32),
        }

    found = measured(labels)
    if weight is not None:
        partners = measured(labels.reshape(-1, 2)[:, ::-1].reshape(-1))
        found = {
            name: weight * value + (1 - weight) * partners[name]
            for name, value in found.items()
        }
    if smoothing:
        spread = -jnp.mean(log_probabilities, axis=1)
        found["loss"] = (1 - smoothing) * found["loss"] + smoothing * spread
    found["examples"] = jnp.ones_like(mask, jnp.float32)
    return {
        name: jnp.sum(jnp.where(mask, value, 0), dtype=jnp.float32)
        for name, value in found.items()
    }


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Mean loss and errors (fractions) over all examples, from sums over batches."""
    examples = float(sums["examples"])
    names = ("loss", "top1_error", "top5_error")
    # A network that is quite sure has a loss of -0.0, the logarithm of 1 negated.
    return {name: float(sums[name]) / examples + 0.0 for name in names}
