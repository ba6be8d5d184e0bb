"""Images through a network in batches: for predictions, features, inspection."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from alexnet_jax.training import evaluation
from alexnet_jax.training.evaluation import HostBatch, Results
from alexnet_jax.training.step import Batch


Item = TypeVar("Item")


def over_images(
    run: Callable[[Batch], Results],
    items: Iterable[Item],
    image_of: Callable[[Item], UInt8[np.ndarray, "size size 3"] | None],
    *,
    size: int,
    batch_size: int,
    mesh: Mesh,
) -> Iterator[tuple[list[Item], HostBatch]]:
    """Run a function over stored images, a batch at a time, on every device.

    Args:
      run: as in `evaluation.over_batches`.
      items: one for each image.
      image_of: an item's image; of None, for an image that can't be read, a black image
        takes the place.
      size: side of the stored images, in pixels.
      batch_size: items at a time, on the devices padded to a multiple of them.
      mesh: the devices.

    Yields:
      Items, at most `batch_size` of them, and the rows of their results on the host.
    """
    places = evaluation.places(batch_size, mesh)

    def batch_of(group: list[Item]) -> HostBatch:
        # Full size even at the end: `run` is compiled for a single shape.
        images = np.zeros((places, size, size, 3), np.uint8)
        for place, image in enumerate(map(image_of, group)):
            if image is not None:
                images[place] = image
        return {
            "image": images,
            "label": np.zeros(places, np.int32),
            "mask": np.arange(places) < len(group),
        }

    rest = iter(items)
    groups = iter(lambda: list(itertools.islice(rest, batch_size)), [])
    # The loop is one batch ahead of its results, which belong to the group before.
    started, finished = itertools.tee(groups)
    batches = evaluation.over_batches(run, map(batch_of, started), mesh)
    for (_, results), group in zip(batches, finished, strict=True):
        yield group, results
