"""Labels and pixels replaced at random (Zhang et al. 2017, section 2)."""

import dataclasses

import numpy as np

from alexnet_jax.data.dataset import Dataset, Example, Source, fingerprint
from alexnet_jax.runtime.errors import InputError, check_number


PIXELS = ("true", "shuffled", "random")
_LABELS, _ONE_ORDER, _OWN_ORDER = 1, 2, 3


@dataclasses.dataclass(frozen=True, eq=False)
class CorruptedSource:
    """A source with some labels replaced, or with its pixels in another order.

    Attributes:
      source: the true examples.
      labels: for each example its new label, or -1 to keep the true one.
      order: the new order of every image's pixels.
      order_seed: seed of a different order for each image.
    """

    source: Source
    labels: np.ndarray | None = dataclasses.field(default=None, repr=False)
    order: np.ndarray | None = dataclasses.field(default=None, repr=False)
    order_seed: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        image, label = example["image"], example["label"]
        if self.labels is not None and self.labels[index] >= 0:
            label = int(self.labels[index])
        order = self.order
        if self.order_seed is not None:
            rng = np.random.default_rng([*self.order_seed, index])
            order = rng.permutation(image.shape[0] * image.shape[1])
        if order is not None:
            image = image.reshape(-1, 3)[order].reshape(image.shape)
        return {"image": image, "label": label}

    def label(self, index: int) -> int:
        """The example's class, replaced or true."""
        if self.labels is not None and self.labels[index] >= 0:
            return int(self.labels[index])
        return self.source.label(index)

    def name(self, index: int) -> str:
        """The example's name."""
        return self.source.name(index)

    def where(self, index: int) -> str:
        """Where the example is read from."""
        return self.source.where(index)


def corrupt(
    dataset: Dataset, *, random_labels: float, pixels: str, seed: int
) -> Dataset:
    """A data set with random labels or shuffled pixels, the same in every epoch.

    Args:
      dataset: the true data set.
      random_labels: the fraction of the training labels that are replaced by a label
        drawn uniformly from all classes, the true one among them. Validation labels
        stay true.
      pixels: `true`; `shuffled` puts the pixels of every image of both splits into
        the same new order; `random` puts those of each image into a different order.
        The three colours of a pixel stay together, and the whole stored image is
        shuffled, before it is cropped.
      seed: of the draws.

    Raises:
      InputError: if an argument is out of range.
    """
    if not 0 <= random_labels <= 1:
        raise InputError(f"data.random_labels={random_labels} must lie from 0 to 1")
    if pixels not in PIXELS:
        raise InputError(
            f"data.pixels={pixels!r} unknown; choose from {', '.join(PIXELS)}"
        )
    check_number("data.corruption_seed", seed)
    if random_labels == 0 and pixels == "true":
        return dataset
    splits = {}
    for number, (name, source) in enumerate(sorted(dataset.splits.items())):
        labels = order = order_seed = None
        if random_labels and name == "train":
            rng = np.random.default_rng([seed, _LABELS])
            drawn = rng.integers(len(dataset.class_names), size=len(source))
            labels = np.where(rng.random(len(source)) < random_labels, drawn, -1)
        if pixels == "shuffled":
            rng = np.random.default_rng([seed, _ONE_ORDER])
            order = rng.permutation(dataset.size**2)
        elif pixels == "random":
            order_seed = (seed, _OWN_ORDER, number)
        splits[name] = CorruptedSource(source, labels, order, order_seed)
    parts = [dataset.fingerprint, repr(float(random_labels)), pixels, str(seed)]
    return dataclasses.replace(
        dataset,
        splits=splits,
        fingerprint=fingerprint(parts),
        # Moved pixels change the mean image.
        statistics=dataset.statistics if pixels == "true" else None,
    )
