"""How alike images are to a layer, and layers to each other; by NumPy, in tiles.

Nothing here holds more than two blocks of rows (`BLOCK_BYTES` each) and one tile of
images by images for each layer, however many images there are. All sums are float64.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float


DISTANCES = ("correlation", "euclidean", "cosine")
BLOCK_BYTES = 2**27
LARGEST_TILE = 512
# Fewer rows have no debiased HSIC.
FEWEST_ROWS = 4

Block = Float[np.ndarray, "rows width"]


@runtime_checkable
class Rows(Protocol):
    """A row of values for each image, as they lie in a file."""

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows, and how many values in each."""
        ...

    def read(self, start: int, stop: int) -> Block:
        """Rows from one on, up to another."""
        ...


class Chosen(NamedTuple):
    """Some rows of others, in their order."""

    rows: Rows
    places: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows, and how many values in each."""
        return len(self.places), self.rows.shape[1]

    def read(self, start: int, stop: int) -> Block:
        """Rows from one on, up to another."""
        places = self.places[start:stop]
        first, last = int(places[0]), int(places[-1])
        return self.rows.read(first, last + 1)[places - first]


class Tile(NamedTuple):
    """A part of an images by images matrix: rows, columns and the values there."""

    rows: slice
    columns: slice
    values: Float[np.ndarray, "rows columns"]


def tile_side(widths: Sequence[int]) -> int:
    """How many rows a block has, where the widest layer's row has so many values."""
    return max(1, min(LARGEST_TILE, BLOCK_BYTES // (8 * max(widths))))


def tile_count(count: int, side: int) -> int:
    """How many tiles cover the upper triangle and the diagonal."""
    along = -(-count // side)
    return along * (along + 1) // 2


def finite(rows: Rows) -> Bool[np.ndarray, " rows"]:
    """Which rows hold numbers alone."""
    return np.concatenate(
        [np.isfinite(block).all(axis=1) for _, block in _blocks(rows)]
    )


def dissimilarities(rows: Rows, distance: str, side: int) -> Iterator[Tile]:
    """The tiles of a representational dissimilarity matrix, on the diagonal and above.

    `correlation` is 1 less Pearson's correlation of two rows, `cosine` 1 less the
    cosine of their angle, `euclidean` their distance: as in SciPy's `pdist`. A row
    without a direction (all values zero; for `correlation` all equal) has no angle, and
    its dissimilarities are NaN.
    """
    prepare = _PREPARED[distance]
    mean = _mean(rows) if distance == "euclidean" else 0.0
    for one, other, i, j in _pairs(rows, side):
        left = prepare(one - mean)
        right = left if i == j else prepare(other - mean)
        products = left @ right.T
        if distance == "euclidean":
            squares = [np.vecdot(block, block) for block in (left, right)]
            values = squares[0][:, None] + squares[1][None] - 2 * products
            values = np.sqrt(np.maximum(values, 0))
        else:
            values = np.clip(1 - products, 0, 2)
        if i == j:
            # Exactly, where rounding would leave a trace; NaN stays.
            np.fill_diagonal(values, 0 * values.diagonal())
        yield Tile(i, j, values)


def linear_cka(
    layers: Sequence[Rows], side: int, advance: Callable[[int], None]
) -> Float[np.ndarray, "layers layers"]:
    """Debiased linear centred kernel alignment of every two layers.

    Kornblith et al. 2019 (1905.00414) with the unbiased estimator of HSIC (Song et al.
    2012; Nguyen et al. 2020, 2010.15327), which does not grow with the width of a layer
    where images are few. It may be below zero. NaN for a layer of constant rows.

    Args:
      layers: all with the same images, at least `FEWEST_ROWS`.
      side: see `tile_side`.
      advance: called with the number of tiles just done.
    """
    count = layers[0].shape[0]
    means = [_mean(rows) for rows in layers]
    products = np.zeros((len(layers), len(layers)))
    sums = np.zeros((len(layers), count))
    for i, j in _tiles(count, side):
        grams = np.empty((len(layers), i.stop - i.start, j.stop - j.start))
        for gram, rows, mean in zip(grams, layers, means, strict=True):
            one = rows.read(i.start, i.stop).astype(np.float64) - mean
            other = one if i == j else rows.read(j.start, j.stop) - mean
            np.matmul(one, other.T, out=gram)
            if i == j:
                np.fill_diagonal(gram, 0)
        flat = grams.reshape(len(layers), -1)
        products += (1 if i == j else 2) * (flat @ flat.T)
        sums[:, i] += grams.sum(axis=2)
        if i != j:
            sums[:, j] += grams.sum(axis=1)
        advance(1)
    return _aligned(products, sums)


def _aligned(
    products: Float[np.ndarray, "layers layers"], sums: Float[np.ndarray, "layers rows"]
) -> Float[np.ndarray, "layers layers"]:
    """CKA from sums over kernel matrices whose diagonals are zero: of the products of
    two, and of each one's rows."""
    count = sums.shape[1]
    totals = sums.sum(axis=1)
    # Without its factor 1 / (count (count - 3)), which a quotient does not have.
    hsic = (
        products
        + np.outer(totals, totals) / ((count - 1) * (count - 2))
        - 2 / (count - 2) * (sums @ sums.T)
    )
    own = hsic.diagonal()
    # Of constant rows rounding alone is left.
    own = np.where(own > 1e-12 * products.diagonal(), own, np.nan)
    return hsic / np.sqrt(np.outer(own, own))


def _tiles(count: int, side: int) -> Iterator[tuple[slice, slice]]:
    parts = [slice(s, min(s + side, count)) for s in range(0, count, side)]
    return itertools.combinations_with_replacement(parts, 2)


def _pairs(rows: Rows, side: int) -> Iterator[tuple[Block, Block, slice, slice]]:
    """The two blocks of every tile, in float64."""
    place, one = None, np.zeros((0, 0))
    for i, j in _tiles(rows.shape[0], side):
        if i != place:
            place, one = i, rows.read(i.start, i.stop).astype(np.float64)
        other = one if i == j else rows.read(j.start, j.stop).astype(np.float64)
        yield one, other, i, j


def _blocks(rows: Rows) -> Iterator[tuple[int, Block]]:
    count, width = rows.shape
    side = tile_side([width])
    for start in range(0, count, side):
        yield start, rows.read(start, min(start + side, count))


def _mean(rows: Rows) -> Float[np.ndarray, " width"]:
    """The mean row. Kernels and distances don't depend on it; their digits do."""
    total = np.zeros(rows.shape[1])
    for _, block in _blocks(rows):
        total += block.sum(axis=0, dtype=np.float64)
    return total / rows.shape[0]


def _of_length_one(block: Block) -> Block:
    """Rows divided by their lengths; those of length zero become NaN."""
    lengths = np.linalg.norm(block, axis=1, keepdims=True)
    return block / np.where(lengths > 0, lengths, np.nan)


def _correlated(block: Block) -> Block:
    """Rows less their means, of length one; those of equal values become NaN."""
    equal = np.ptp(block, axis=1) == 0
    centred = block - block.mean(axis=1, keepdims=True)
    centred[equal] = 0
    return _of_length_one(centred)


_PREPARED: dict[str, Callable[[Block], Block]] = {
    "correlation": _correlated,
    "cosine": _of_length_one,
    "euclidean": lambda block: block,
}
