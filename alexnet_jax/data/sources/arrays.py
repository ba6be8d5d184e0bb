"""A data set from arrays in memory, or in a file of NumPy's."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer, Shaped, UInt8

from alexnet_jax.data.dataset import Dataset, Example, fingerprint
from alexnet_jax.data.statistics import PixelSums
from alexnet_jax.runtime.errors import InputError, first_line


SPLITS = ("train", "validation")


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Examples in two arrays: stored images and the class of each."""

    images: UInt8[np.ndarray, "count size size 3"] = dataclasses.field(repr=False)
    labels: Integer[np.ndarray, "count"] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], "label": int(self.labels[index])}

    def label(self, index: int) -> int:
        """The example's class."""
        return int(self.labels[index])

    def name(self, index: int) -> str:
        """The example's place in the arrays."""
        return str(index)

    def where(self, index: int) -> str:
        """The example's place, for messages."""
        return f"example {index} in memory"


def open_arrays(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """A data set in one file, as `save_arrays` writes it, read into memory: arrays
    `train_images`, `train_labels`, `validation_images`, `validation_labels`, and
    `class_names`. It has its own size and splits.

    Raises:
      InputError: if it can't be read, or its arrays don't fit together.
    """
    del size, validation_fraction
    if path is None:
        raise InputError("data.path is not set; give the .npz file of the arrays")
    try:
        with open(path, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, and no .npz")
            images = {split: stored[f"{split}_images"] for split in SPLITS}
            labels = {split: stored[f"{split}_labels"] for split in SPLITS}
            names = stored["class_names"].astype(str).tolist()
        return array_dataset(images, labels, names)
    except InputError:
        raise
    except Exception as error:
        # NumPy, zlib and zipfile raise many kinds for damaged bytes.
        reason = first_line(error)
        raise InputError(f"{path} is no file of arrays ({reason})") from error


def save_arrays(path: Path, dataset: Dataset) -> None:
    """Write a data set in memory to an .npz file, to be carried to another machine."""
    arrays: dict[str, np.ndarray] = {}
    for split in SPLITS:
        source = dataset.splits[split]
        assert isinstance(source, ArraySource)
        arrays[f"{split}_images"] = source.images
        arrays[f"{split}_labels"] = source.labels
    np.savez(path, class_names=np.asarray(dataset.class_names), **arrays)  # type: ignore


def array_dataset(
    images: Mapping[str, Shaped[np.ndarray, "..."]],
    labels: Mapping[str, Shaped[np.ndarray, "..."]],
    class_names: Sequence[str],
) -> Dataset:
    """A data set from arrays, which are not copied.

    Its fingerprint is a checksum of the pixels, labels and class names.

    Args:
      images: for each split, `train` and `validation`, uint8 images of shape
        (count, size, size, 3).
      labels: for each split the class of each image, from 0.
      class_names: a readable name for each label.

    Raises:
      InputError: if the arrays don't fit together.
    """
    if set(images) != set(labels) or "train" not in images:
        raise InputError(
            f"images of {sorted(images)} and labels of {sorted(labels)}; give both of "
            "train and validation"
        )
    size = images["train"].shape[1] if images["train"].ndim == 4 else 0
    for split in images:
        _check(split, images[split], labels[split], size, len(class_names))
    splits = {split: ArraySource(images[split], labels[split]) for split in images}
    sums = PixelSums.zeros(size)
    for image in images["train"]:
        sums.add(image)
    names = tuple(class_names)
    checksums = [f"{split}/{_checksum(source)}" for split, source in splits.items()]
    return Dataset(
        splits=splits,
        class_names=names,
        class_ids=names,
        size=size,
        fingerprint=fingerprint([*names, *checksums]),
        statistics=sums.statistics(),
    )


def _check(
    split: str,
    images: Shaped[np.ndarray, "..."],
    labels: Shaped[np.ndarray, "..."],
    size: int,
    classes: int,
) -> None:
    """Raise an InputError if a split's arrays are no examples of that size."""
    count = len(labels) if labels.ndim else 0
    if images.dtype != np.uint8 or images.shape != (count, size, size, 3) or not count:
        raise InputError(
            f"images of {split} are {images.dtype} of {images.shape}; give uint8 of "
            f"(count, size, size, 3), with as many labels ({count}) and the size of "
            "the training images"
        )
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels of {split} are {labels.dtype} of {labels.shape}; give a vector of "
            "integers"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"labels of {split} lie from {labels.min()} to {labels.max()}, with "
            f"{classes} class names; give a name for each label from 0"
        )


def _checksum(source: ArraySource) -> str:
    digest = hashlib.sha256(str(source.images.shape).encode())
    digest.update(np.ascontiguousarray(source.images).data)
    # Labels of any integer type have the same checksum.
    digest.update(np.ascontiguousarray(source.labels, np.int64).data)
    return digest.hexdigest()
