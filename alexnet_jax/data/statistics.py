"""Mean picture and colour PCA of a data set, from exact sums (section 4.1).

Sums of pixels and of their products are integers, so they are the same whatever the
order of the pictures; floating point enters once, at the end.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer, Shaped, UInt8

from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError, first_line


MEAN_FILE = "mean.npy"


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """What the training pictures look like on average, on the scale 0 to 255.

    Attributes:
      mean: the mean picture.
      deviations: standard deviation of the pixels along each principal direction of
        colour, rising. The 2012 code draws its colour shift with these; the paper's
        text says eigenvalues, which are their squares.
      directions: the principal directions, one in each column.
    """

    mean: Float[np.ndarray, "size size 3"]
    deviations: Float[np.ndarray, "3"]
    directions: Float[np.ndarray, "3 3"]

    def to_json(self) -> dict[str, Any]:
        """The colours, for `dataset.json`; the mean picture is a file of its own."""
        return {
            "channel_means": self.mean.mean(axis=(0, 1), dtype=np.float64).tolist(),
            "colour_deviations": self.deviations.tolist(),
            "colour_directions": self.directions.tolist(),
        }

    def save_mean(self, folder: Path) -> None:
        """Write the mean picture."""
        path = folder / MEAN_FILE
        with writing(path):
            np.save(path, self.mean)


def load_statistics(folder: Path, description: Mapping[str, Any]) -> Statistics:
    """Statistics from what `to_json` gave, and the folder with the mean picture.

    Raises:
      InputError: if the mean picture isn't one of the description's `size`.
      ValueError, KeyError, TypeError: if the description is none.
    """
    size = description["size"]
    path = folder / MEAN_FILE
    try:
        # Mapped, so that a file that promises more than it has is not made room for.
        mean = np.load(path, mmap_mode="r", allow_pickle=False)
        if mean.shape != (size, size, 3) or mean.dtype != np.float32:
            raise ValueError(f"{mean.dtype} of {mean.shape} where a picture should be")
        mean = np.array(mean)
        if not np.isfinite(mean).all():
            raise ValueError("numbers that are not finite")
    except Exception as error:
        # NumPy lets through what Python's own reader of its header raises.
        raise InputError(
            f"{path} is missing or damaged ({first_line(error)})"
        ) from error
    colours = {}
    for key, shape in (("colour_deviations", (3,)), ("colour_directions", (3, 3))):
        colours[key] = np.asarray(description[key], np.float64)
        if colours[key].shape != shape or not np.isfinite(colours[key]).all():
            raise ValueError(key)
    return Statistics(mean, colours["colour_deviations"], colours["colour_directions"])


@dataclasses.dataclass
class PixelSums:
    """Exact sums over pictures.

    Attributes:
      pixels: the sum of the pictures, in 32 bits for up to 2**24 that were added, in 64
        for sums that were added.
      products: the sum over all pixels of the products of two colours.
      count: how many pictures.
    """

    pixels: Integer[np.ndarray, "size size 3"]
    products: Int[np.ndarray, "3 3"]
    count: int

    @classmethod
    def zeros(cls, size: int) -> "PixelSums":
        """Of no picture yet."""
        return cls(np.zeros((size, size, 3), np.uint32), np.zeros((3, 3), np.int64), 0)

    def add(self, picture: UInt8[np.ndarray, "size size 3"]) -> None:
        """Add a picture."""
        if self.count >= 2**24:
            raise OverflowError("more pictures than 32 bits hold the sum of")
        self.pixels += picture
        # A row's products stay below 2**24 up to 258 pixels, so float32 holds its sum
        # exactly, and float64 that of any picture. Row by row: longer products would
        # start threads, which wait for those of the other processes.
        size = picture.shape[0]
        kind = np.float32 if size <= 258 else np.float64
        planes = np.ascontiguousarray(picture.reshape(-1, 3).T).astype(kind)
        planes = planes.reshape(3, size, size)
        rows = np.vecdot(planes[:, None], planes[None])
        self.products += rows.sum(axis=-1, dtype=np.float64).astype(np.int64)
        self.count += 1

    def __iadd__(self, other: "PixelSums") -> "PixelSums":
        self.pixels = self.pixels.astype(np.int64) + other.pixels
        self.products += other.products
        self.count += other.count
        return self

    def save(self, path: Path) -> None:
        """Write the sums to an npz file."""
        np.savez(path, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "PixelSums":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["pixels"], arrays["products"], int(arrays["count"]))

    def statistics(self) -> Statistics:
        """Mean picture and colour PCA of what was added.

        Eigenvalues are clipped at zero: those of grey pictures may come out below it.
        """
        places = self.count * self.pixels.shape[0] * self.pixels.shape[1]
        mean = self.pixels.sum(axis=(0, 1)) / places
        covariance = self.products / places - np.outer(mean, mean)
        values, directions = np.linalg.eigh(covariance)
        return Statistics(
            mean=(self.pixels / self.count).astype(np.float32),
            deviations=np.sqrt(np.clip(values, 0, None)),
            directions=directions,
        )


def mean_crop(statistics: Statistics, crop: int) -> Float[np.ndarray, "crop crop 3"]:
    """The mean picture's centre, which is subtracted from every crop.

    As in the 2012 code, wherever the crop was cut.
    """
    return centre(statistics.mean, crop)


def centre(
    pictures: Shaped[np.ndarray, "*batch size size 3"], crop: int
) -> Shaped[np.ndarray, "*batch crop crop 3"]:
    """The square in the middle; not a copy."""
    start = (pictures.shape[-2] - crop) // 2
    inside = slice(start, start + crop)
    return pictures[..., inside, inside, :]
