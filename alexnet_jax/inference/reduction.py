"""Fewer numbers for each image: maps pooled, values projected, components kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from sklearn.random_projection import SparseRandomProjection

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import check_choice, check_number


POOLS = ("mean", "max", "centre")


def pool(
    maps: Float[Array, "batch *shape"], how: str | None
) -> Float[Array, "batch *pooled"]:
    """Each channel's mean or largest value, or the unit in the middle of its map; where
    two are nearest to the middle, the upper left one. Values without maps stay."""
    if how is None or maps.ndim < 4:
        return maps
    if how == "centre":
        return maps[:, (maps.shape[1] - 1) // 2, (maps.shape[2] - 1) // 2]
    return (jnp.mean if how == "mean" else jnp.max)(maps, axis=(1, 2))


class Reduction:
    """What is done to a layer's values on the host: a random projection, then principal
    components, each left out where a layer has no more values than would be left.

    The projection is scikit-learn's `SparseRandomProjection` of as many components,
    whose `random_state` is the seed: nothing is learned, so images stream through it.

    Attributes:
      pca: how many principal components are kept; None for all values.
      components: of each layer that they are kept of: `mean`, `components`; set once
        they are known.

    Raises:
      InputError: if a number is out of range.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        project: int | None,
        pca: int | None,
        seed: int,
    ) -> None:
        for flag, number in (("--project", project), ("--pca", pca)):
            if number is not None:
                check_number(flag, number, least=1, whole=True)
        check_number("--seed", seed, below=2**32, whole=True)
        self._shapes = shapes
        self._project, self.pca, self._seed = project, pca, seed
        self._projections: dict[str, Any] = {}
        self.components: dict[str, dict[str, np.ndarray]] = {}
        self._say_kept("--project", project, self.projected)
        self._say_kept("--pca", pca, self.analysed)

    def _say_kept(self, flag: str, number: int | None, done: Sequence[str]) -> None:
        kept = [name for name in self._shapes if name not in done]
        if number is not None and kept:
            progress.say(
                f"{flag}={number}: {', '.join(kept)} has no more values, and stays "
                "as it is"
            )

    @property
    def projected(self) -> tuple[str, ...]:
        """The layers that are projected."""
        return self._wider(self._shapes, self._project)

    @property
    def analysed(self) -> tuple[str, ...]:
        """The layers whose principal components are kept."""
        shapes = {name: self._width(name) for name in self._shapes}
        return self._wider(shapes, self.pca)

    def _wider(
        self, shapes: Mapping[str, tuple[int, ...]], number: int | None
    ) -> tuple[str, ...]:
        if number is None:
            return ()
        return tuple(name for name, s in shapes.items() if np.prod(s) > number)

    def _width(self, layer: str) -> tuple[int, ...]:
        """A row's shape behind the projection."""
        if self._project is not None and layer in self.projected:
            return (self._project,)
        return self._shapes[layer]

    def shape(self, layer: str) -> tuple[int, ...]:
        """A row's shape in the end."""
        if self.pca is not None and layer in self.analysed:
            return (self.pca,)
        return self._width(layer)

    def _projection(self, layer: str) -> Any:
        """The sparse matrix of a layer, components x values."""
        if layer not in self._projections:
            width = int(np.prod(self._shapes[layer]))
            kept: Any = self._project
            made = SparseRandomProjection(kept, random_state=self._seed)
            # It depends on the number of values alone.
            made.fit(np.zeros((1, width), np.float32))
            self._projections[layer] = made.components_
        return self._projections[layer]

    def project(self, layer: str, rows: np.ndarray) -> np.ndarray:
        """A layer's rows behind the projection."""
        if layer not in self.projected:
            return rows
        return rows.reshape(len(rows), -1) @ self._projection(layer).T

    def __call__(self, layer: str, rows: np.ndarray) -> np.ndarray:
        """A layer's rows in the end, as float32."""
        rows = self.project(layer, rows)
        if layer in self.analysed:
            known = self.components[layer]
            flat = rows.reshape(len(rows), -1).astype(np.float64)
            rows = (flat - known["mean"]) @ known["components"].T
        return rows.astype(np.float32)


def check_pool(how: str | None) -> None:
    """Raise an InputError for an unknown way to pool."""
    if how is not None:
        check_choice("--pool", how, POOLS)
