"""Sources that give pixels and not encoded images, such as arrays, to be prepared."""

import dataclasses

import numpy as np

from alexnet_jax.data.dataset import Source, fingerprint
from alexnet_jax.data.encoded import StoredImage
from alexnet_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class PixelSource:
    """Some examples of a source, which are stored as they are.

    Attributes:
      source: all of its split.
      of_set: the data set's fingerprint and the split's name.
      size: side of the images, in pixels.
      start, stop: which of the examples.
    """

    source: Source
    of_set: tuple[str, str]
    size: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def name(self, index: int) -> str:
        """The example's name."""
        return self.source.name(self.start + index)

    def stored(self, index: int) -> StoredImage:
        """The example.

        Raises:
          InputError: if it can't be read, or has another size.
        """
        example = self.source[self.start + index]
        image = np.asarray(example["image"])
        if image.dtype != np.uint8 or image.shape != (self.size, self.size, 3):
            raise InputError(
                f"{self.source.where(self.start + index)} is {image.dtype} of "
                f"{image.shape}, where uint8 of ({self.size}, {self.size}, 3) is meant"
            )
        return StoredImage(int(example["label"]), image, ())

    def subset(self, start: int, stop: int) -> "PixelSource":
        """The examples from `start` to before `stop`."""
        at = self.start
        return dataclasses.replace(self, start=at + start, stop=at + stop)

    def fingerprint(self) -> str:
        """Of the data set, the split, and which of its examples."""
        return fingerprint([*self.of_set, str(self.start), str(self.stop)])
