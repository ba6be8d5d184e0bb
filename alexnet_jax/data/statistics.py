"""Mean image and colour PCA of a data set, from exact sums (section 4.1).

Sums of pixels and of their products are integers, so the order of the images does not
change them; floating point enters once, at the end.
"""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Integer, Shaped, UInt8

from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError, first_line


MEAN_FILE = "mean.npy"


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Mean image and colour statistics of the training images, on the scale 0 to 255.

    Attributes:
      mean: the mean image.
      deviations: standard deviation of the pixels along each principal direction of
        colour, ascending. The 2012 code scales its colour shift by these; the paper's
        text says eigenvalues, which are their squares.
      directions: the principal directions, as columns.
    """

    mean: Float[np.ndarray, "size size 3"]
    deviations: Float[np.ndarray, "3"]
    directions: Float[np.ndarray, "3 3"]

    def to_json(self) -> dict[str, object]:
        """The colour statistics, for JSON; the mean image is a separate file."""
        return {
            "channel_means": self.mean.mean(axis=(0, 1), dtype=np.float64).tolist(),
            "colour_deviations": self.deviations.tolist(),
            "colour_directions": self.directions.tolist(),
        }

    def save_mean(self, folder: Path) -> None:
        """Write the mean image, `mean.npy`, into a folder."""
        path = folder / MEAN_FILE
        content = io.BytesIO()
        np.save(content, self.mean)
        with writing(path):
            atomic.replace(path, content.getvalue())


def load_statistics(folder: Path, content: Mapping[str, object]) -> Statistics:
    """Read the mean image in a folder, and from `content` what `to_json` gave and the
    images' `size`.

    A run reads the statistics from its work directory even where it has just measured
    them: process 0 measures and writes, the processes of other hosts read, and so all
    subtract the same bits.

    Raises:
      InputError: if the mean image is missing, damaged, or not of that `size`.
      ValueError, KeyError, TypeError: if `content` is damaged.
    """
    size = content["size"]
    path = folder / MEAN_FILE
    try:
        # Memory-mapped, so that a header that claims a huge array allocates nothing.
        mean = np.load(path, mmap_mode="r", allow_pickle=False)
        if mean.shape != (size, size, 3) or mean.dtype != np.float32:
            raise ValueError(f"{mean.dtype} of {mean.shape} where an image should be")
        mean = np.array(mean)
        if not np.isfinite(mean).all():
            raise ValueError("numbers that are not finite")
    except Exception as error:
        # NumPy parses the header with Python's own parser, which raises many kinds.
        raise InputError(
            f"{path} is missing or damaged ({first_line(error)})"
        ) from error
    colours = []
    for key, shape in (("colour_deviations", (3,)), ("colour_directions", (3, 3))):
        colours.append(np.asarray(content[key], np.float64))
        if colours[-1].shape != shape or not np.isfinite(colours[-1]).all():
            raise ValueError(key)
    return Statistics(mean, *colours)


@dataclasses.dataclass
class PixelSums:
    """Exact sums over images.

    Attributes:
      pixels: the sum of the images. 32 bits hold up to 2**24 images; the total of
        several sums has 64 bits.
      products: for each pair of colours, the sum of their products over all pixels.
      count: how many images.
    """

    pixels: Integer[np.ndarray, "size size 3"]
    products: Int[np.ndarray, "3 3"]
    count: int

    @classmethod
    def zeros(cls, size: int) -> "PixelSums":
        """The sums over no image, of `size` pixels a side."""
        return cls(np.zeros((size, size, 3), np.uint32), np.zeros((3, 3), np.int64), 0)

    def add(self, image: UInt8[np.ndarray, "size size 3"]) -> None:
        """Add an image."""
        if self.count >= 2**24:
            raise OverflowError("more images than 32 bits hold the sum of")
        self.pixels += image
        # A row's products stay below 2**24 up to 258 pixels, so float32 holds its sum
        # exactly, and float64 that of any image. Row by row, because longer products
        # would make BLAS start threads, which wait for those of the other processes.
        size = image.shape[0]
        kind = np.float32 if size <= 258 else np.float64
        planes = np.ascontiguousarray(image.reshape(-1, 3).T).astype(kind)
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
        """Mean image and colour PCA of what was added.

        Eigenvalues are clipped at zero: rounding may leave those of grey images
        slightly below it.
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
    """The mean image's centre, subtracted from crops of any place (2012 code)."""
    return centre(statistics.mean, crop)


def centre(
    images: Shaped[np.ndarray, "*batch size size 3"], crop: int
) -> Shaped[np.ndarray, "*batch crop crop 3"]:
    """The centre square of `crop` pixels a side; a view, not a copy."""
    start = (images.shape[-2] - crop) // 2
    inside = slice(start, start + crop)
    return images[..., inside, inside, :]
