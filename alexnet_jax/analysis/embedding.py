"""A two-dimensional map of images, by scikit-learn's t-SNE."""

import math

import numpy as np
from jaxtyping import Float, Int

from alexnet_jax.runtime.errors import InputError


# As van der Maaten and Hinton's own: the distances of the first principal components.
COMPONENTS, PERPLEXITY = 50, 30.0
FEWEST = 5


def two_dimensional(
    rows: Float[np.ndarray, "images width"], seed: int = 0
) -> Float[np.ndarray, "images 2"]:
    """Places in the unit square, near each other where rows are alike.

    Raises:
      ValueError: if there are fewer than `FEWEST` rows.
      InputError: if all rows are equal, as those of a network that has died.
    """
    if len(rows) < FEWEST:
        raise ValueError(f"a map needs {FEWEST} images, not {len(rows)}")
    # t-SNE would divide by their deviation, and not end.
    if not np.ptp(rows, axis=0).any():
        raise InputError(
            "the last hidden layer is the same for every image, and a map needs images "
            "that differ there"
        )
    # Slow to import.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    components = min(COMPONENTS, *rows.shape)
    reduced = PCA(components, svd_solver="full").fit_transform(rows.astype(np.float64))
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 4)
    found = TSNE(
        perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed
    ).fit_transform(reduced)
    low, high = found.min(axis=0), found.max(axis=0)
    return (found - low) / np.maximum(high - low, np.finfo(np.float32).tiny)


def on_a_grid(places: Float[np.ndarray, "images 2"]) -> Int[np.ndarray, "images 2"]:
    """A column and a row of its own for every place, in the smallest square that has
    room for all; the sum of the squared ways there is the least."""
    # Slow to import.
    from scipy.optimize import linear_sum_assignment

    side = math.ceil(math.sqrt(len(places)))
    cells = np.stack(np.divmod(np.arange(side**2), side)[::-1], axis=1)
    middles = (cells + 0.5) / side
    ways = ((places[:, None] - middles[None]) ** 2).sum(axis=-1)
    _, chosen = linear_sum_assignment(ways)
    return cells[chosen]
