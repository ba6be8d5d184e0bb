"""The best classes of image files, with their probabilities."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Array

from alexnet_jax.data import image_paths
from alexnet_jax.inference.image_batches import over_images
from alexnet_jax.inference.trained import open_trained, say_resize
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import losses
from alexnet_jax.training.step import Batch


# Classes of each image.
BEST = 5
BATCH_SIZE = 32


class Prediction(NamedTuple):
    """The best classes of an image, best first, each with its probability; or, without
    any, why the image can't be read."""

    path: Path
    classes: tuple[tuple[str, float], ...]
    error: InputError | None


def predict(
    workdir: Path,
    paths: Sequence[Path],
    *,
    views: int = 1,
    checkpoint: str | int = "best",
    dtype: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Prediction]:
    """Predict the classes of image files, in their order.

    Args:
      workdir: of a run.
      paths: of the files.
      views: 1 for the centre; 10 for corners, centre and their flips, averaged.
      checkpoint: `best`, `latest` or a step.
      dtype: type of the computation; None for the run's own.
      batch_size: images at a time.

    Raises:
      InputError: if there is no such checkpoint. An image that can't be read has its
        error in its prediction, and the others continue.
    """
    network = open_trained(workdir, checkpoint, dtype)
    mesh, names = network.all_devices(), network.data.class_names
    evaluate = network.evaluator(mesh, views)
    size = network.data.size
    say_resize(network)

    def averaged(batch: Batch) -> dict[str, Array]:
        return {"mean": losses.log_mean_probabilities(evaluate(batch)[1])}

    for group, results in over_images(
        averaged,
        image_paths.shown(paths, size, network.data.resize),
        lambda shown: shown.image,
        size=size,
        batch_size=min(batch_size, len(paths)),
        mesh=mesh,
    ):
        for shown, row in zip(group, np.exp(results["mean"]), strict=True):
            order = np.argsort(-row, kind="stable")[:BEST]
            classes = tuple((names[label], float(row[label])) for label in order)
            yield Prediction(shown.path, () if shown.error else classes, shown.error)
