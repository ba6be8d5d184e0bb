"""A trained network's view of its validation images, for figures and tables."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from alexnet_jax.data import image_paths, statistics
from alexnet_jax.data.dataset import Source
from alexnet_jax.inference.extraction_input import Row
from alexnet_jax.inference.image_batches import over_images
from alexnet_jax.inference.members import open_data
from alexnet_jax.inference.trained import TrainedNetwork
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


# More images would not be seen in a figure, and their pixels need memory.
MOST_EXAMPLES = 1024
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Insight:
    """Validation examples as a network sees them: all of them by label and prediction,
    and up to `MOST_EXAMPLES` of them, evenly chosen, whole.

    Attributes:
      images: the crops that it saw.
      labels: their classes.
      probabilities: what it gives each class.
      hidden: the last hidden layer, whose distances say which images are alike.
      every_label: the class of each example that could be read.
      every_prediction: the likeliest class of each.
      unreadable: how many could not be read.
      training: how many examples the training split has.
    """

    class_names: tuple[str, ...]
    images: UInt8[np.ndarray, "examples crop crop 3"]
    labels: Int[np.ndarray, " examples"]
    probabilities: Float[np.ndarray, "examples classes"]
    hidden: Float[np.ndarray, "examples width"]
    every_label: Int[np.ndarray, " every"]
    every_prediction: Int[np.ndarray, " every"]
    unreadable: int
    training: int

    @property
    def total(self) -> int:
        """How many examples could be read."""
        return len(self.every_label)

    @property
    def chance_level(self) -> float:
        """The top-1 error of naming the largest class for every example."""
        return 1 - float(np.bincount(self.every_label).max()) / self.total

    @property
    def predicted(self) -> Int[np.ndarray, " examples"]:
        """The likeliest class of each example that is held whole."""
        return self.probabilities.argmax(axis=1)

    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """How many of all examples of a class (row) were taken for each (column)."""
        classes = len(self.class_names)
        pairs = self.every_label.astype(np.int64) * classes + self.every_prediction
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def nearest(self, example: int, count: int) -> Int[np.ndarray, " count"]:
        """The other examples whose last hidden layer is nearest (figure 4)."""
        distances = np.linalg.norm(self.hidden - self.hidden[example], axis=1)
        distances[example] = np.inf
        return np.argsort(distances, kind="stable")[: min(count, len(distances) - 1)]


def look(network: TrainedNetwork, data_path: Path | None = None) -> Insight:
    """Run all validation images through a network.

    Its data are at `data_path`, or where they were in training.

    Raises:
      InputError: if the data aren't there, or have other classes or another size, or no
        validation image can be read.
    """
    data = network.data
    path = network.data_path if data_path is None else str(data_path)
    splits = open_data(network, path).dataset.splits
    source = splits["validation"]
    count = min(len(source), MOST_EXAMPLES)
    chosen = {*np.linspace(0, len(source) - 1, count).astype(int).tolist()}
    *_, hidden, head = network.model.layers
    mesh = network.all_devices()
    whole: list[tuple[np.ndarray, int, np.ndarray, np.ndarray]] = []
    labels, predictions, seen = [], [], 0
    with progress.counted("validation images", len(source)) as advance:
        for group, results in over_images(
            network.extractor(mesh, (head, hidden)),
            rows_of(source),
            lambda row: row.image,
            size=data.size,
            batch_size=min(BATCH_SIZE, len(source)),
            mesh=mesh,
        ):
            for row, logits, values in zip(
                group, results[head], results[hidden], strict=True
            ):
                if row.image is not None:
                    labels.append(row.label)
                    predictions.append(int(logits.argmax()))
                    if seen in chosen:
                        crop = statistics.centre(row.image, data.crop)
                        whole.append((crop.copy(), row.label, logits, values.ravel()))
                seen += 1
            advance(len(group))
    if not whole:
        raise InputError("none of the validation images can be read")
    images, own, logits, values = zip(*whole, strict=True)
    return Insight(
        class_names=data.class_names,
        images=np.stack(images),
        labels=np.asarray(own, np.int32),
        probabilities=np.asarray(jax.nn.softmax(np.stack(logits))),
        hidden=np.stack(values),
        every_label=np.asarray(labels, np.int32),
        every_prediction=np.asarray(predictions, np.int32),
        unreadable=len(source) - len(labels),
        training=len(splits["train"]),
    )


def rows_of(source: Source) -> Iterator[Row]:
    """Every example of a split, read ahead; one that can't be read has an error."""

    def row(index: int) -> Row:
        try:
            example, name = source[index], source.name(index)
        except InputError as error:
            return Row(source.where(index), -1, None, error)
        return Row(name, example["label"], example["image"], None)

    return image_paths.ahead(row, range(len(source)))
