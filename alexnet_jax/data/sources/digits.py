"""The scanned digits that come with scikit-learn, as a data set."""

import dataclasses

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image

from alexnet_jax.data.dataset import Dataset, Example, fingerprint
from alexnet_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class DigitsSource:
    """Some of scikit-learn's 1,797 scanned digits, enlarged to `size` pixels a side.

    `indices` says which; `images`, with grey levels from 0 to 16, and `labels` are
    those of all digits.
    """

    indices: Integer[np.ndarray, "count"] = dataclasses.field(repr=False)
    images: Float[np.ndarray, "digits 8 8"] = dataclasses.field(repr=False)
    labels: Integer[np.ndarray, "digits"] = dataclasses.field(repr=False)
    size: int

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        place = int(self.indices[index])
        grey = Image.fromarray((self.images[place] * (255 / 16)).astype(np.uint8))
        grey = grey.resize((self.size, self.size), Image.Resampling.BICUBIC)
        image = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
        return {"image": image, "label": int(self.labels[place])}

    def label(self, index: int) -> int:
        """The digit."""
        return int(self.labels[self.indices[index]])

    def name(self, index: int) -> str:
        """The example's name."""
        return str(self.indices[index])

    def where(self, index: int) -> str:
        """The example's place among scikit-learn's."""
        return f"digit {self.indices[index]} of scikit-learn"


def open_digits(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """The digits. The held-out digits are the same whatever the run's seed.

    Raises:
      InputError: if a path is given, or a split would be empty.
    """
    if path is not None:
        raise InputError("data.path has no meaning for the digits; leave it out")
    # Here, because scikit-learn is slow to import and only the digits need it.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.reshape(pixels, (-1, 8, 8))
    total = len(labels)
    order = np.random.default_rng(2012).permutation(total)
    count = round(validation_fraction * total)
    if not 0 < count < total:
        raise InputError(
            f"data.validation_fraction={validation_fraction} leaves a split of the "
            f"{total} digits empty"
        )
    names = tuple(str(digit) for digit in range(10))
    held_out, kept = np.sort(order[:count]), np.sort(order[count:])
    return Dataset(
        splits={
            "train": DigitsSource(kept, images, labels, size),
            "validation": DigitsSource(held_out, images, labels, size),
        },
        class_names=names,
        class_ids=names,
        size=size,
        fingerprint=fingerprint(["digits", str(size), str(count)]),
    )
