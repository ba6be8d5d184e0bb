"""Principal components of features, learned batch by batch.

scikit-learn's incremental PCA sees a group of images at a time, so memory does not grow
with their number. What it has learned lies beside the output in `NAME.pca.npz`, from
which a process that was killed continues; at the end that file is the PCA itself.
"""

import io
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from sklearn.decomposition import IncrementalPCA

from alexnet_jax.inference.feature_file import Columns
from alexnet_jax.inference.reduction import Reduction
from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError, first_line


# What an incremental PCA knows, by the names of its attributes.
LEARNED = (
    "components_",
    "singular_values_",
    "mean_",
    "var_",
    "explained_variance_",
    "explained_variance_ratio_",
)
SECONDS_BETWEEN_SAVES = 5.0


class Components:
    """Learns the components of a reduction's layers, or reads what was learned.

    Args:
      path: of the file, which is read if it is there.
      reduction: which layers, and how many components.

    Attributes:
      done: how many images have been seen.

    Raises:
      InputError: if it is damaged.
    """

    def __init__(self, path: Path, reduction: Reduction) -> None:
        self.path = path
        self._reduction = reduction
        self._known = {
            name: IncrementalPCA(reduction.pca) for name in reduction.analysed
        }
        self.done = 0
        self._group: list[Columns] = []
        self._when = time.monotonic()
        if not self._known or not self.path.exists():
            return
        try:
            self._read()
        except Exception as error:
            # A damaged zip raises many kinds.
            raise InputError(
                f"{self.path} is damaged ({first_line(error)}); choose another --output"
            ) from error

    def _read(self) -> None:
        with np.load(self.path, allow_pickle=False) as saved:
            self.done = int(saved["images"])
            for name, pca in self._known.items():
                for attribute in LEARNED:
                    setattr(pca, attribute, saved[f"{name}.{attribute.rstrip('_')}"])
                pca.n_components_ = self._reduction.pca
                pca.n_samples_seen_ = saved[f"{name}.images"][()]

    def learn(self, batches: Iterable[Columns], total: int, least: int) -> None:
        """Learn from the images that have not been seen, then give the reduction its
        components.

        Args:
          batches: rows of each layer behind the projection, with NaN for images that
            can't be read, from image `done` on.
          total: how many images there are.
          least: images at a time, at least; about twice as many as components are
            taken, with which the work for each is least.

        Raises:
          InputError: if fewer images can be read than components are asked for.
        """
        group = max(least, 2 * (self._reduction.pca or 0))
        waiting = 0
        for batch in batches:
            self._group.append(batch)
            waiting += _count(batch)
            is_last = self.done + waiting == total
            if (waiting >= group or is_last) and self._fit():
                self.done, waiting = self.done + waiting, 0
                if not is_last:
                    self._save_sometimes()
        for name, pca in self._known.items():
            if not hasattr(pca, "components_"):
                raise InputError(
                    f"--pca={self._reduction.pca} needs at least as many images that "
                    "can be read; take fewer components, and another --output"
                )
            learned = (np.asarray(pca.mean_), np.asarray(pca.components_))
            self._reduction.components[name] = dict(
                zip(("mean", "components"), learned, strict=True)
            )
        self._save()

    def _fit(self) -> bool:
        """Learn from the group that waits; False where it is too small to begin with,
        and waits for more."""
        joined = {
            name: np.concatenate([batch[name] for batch in self._group]).reshape(
                sum(map(_count, self._group)), -1
            )
            for name in self._known
        }
        readable = np.all([np.isfinite(r).all(axis=1) for r in joined.values()], axis=0)
        begun = all(hasattr(pca, "components_") for pca in self._known.values())
        if not begun and readable.sum() < (self._reduction.pca or 0):
            return False
        if readable.any():
            for name, pca in self._known.items():
                pca.partial_fit(joined[name][readable].astype(np.float64))
        self._group = []
        return True

    def _save_sometimes(self) -> None:
        if time.monotonic() - self._when > SECONDS_BETWEEN_SAVES:
            self._save()

    def _save(self) -> None:
        arrays = {"images": np.asarray(self.done)}
        for name, pca in self._known.items():
            for attribute in LEARNED:
                learned = np.asarray(getattr(pca, attribute))
                arrays[f"{name}.{attribute.rstrip('_')}"] = learned
            arrays[f"{name}.images"] = np.asarray(pca.n_samples_seen_)
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        with writing(self.path):
            atomic.replace(self.path, content.getvalue())
        self._when = time.monotonic()


def _count(batch: Columns) -> int:
    return len(next(iter(batch.values())))
