"""A trained network's view of its validation images, for figures and tables."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from alexnet_jax.data import image_paths, statistics
from alexnet_jax.data.dataset import Example
from alexnet_jax.inference.image_batches import over_images
from alexnet_jax.inference.members import open_data
from alexnet_jax.inference.trained import TrainedNetwork


# More images would not be seen in a figure, and take long on a CPU.
MOST_EXAMPLES = 1024
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Insight:
    """Validation examples as a network sees them.

    Attributes:
      images: the crops that it saw.
      probabilities: what it gives each class.
      hidden: the last hidden layer, whose distances say which images are alike.
      total: how many examples the split has.
    """

    class_names: tuple[str, ...]
    images: UInt8[np.ndarray, "examples crop crop 3"]
    labels: Int[np.ndarray, " examples"]
    probabilities: Float[np.ndarray, "examples classes"]
    hidden: Float[np.ndarray, "examples width"]
    total: int

    @property
    def predicted(self) -> Int[np.ndarray, " examples"]:
        """The best class of each example."""
        return self.probabilities.argmax(axis=1)

    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """How many examples of a class (row) were taken for each class (column)."""
        classes = len(self.class_names)
        pairs = self.labels.astype(np.int64) * classes + self.predicted
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def nearest(self, example: int, count: int) -> Int[np.ndarray, " count"]:
        """The other examples whose last hidden layer is nearest (figure 4)."""
        distances = np.linalg.norm(self.hidden - self.hidden[example], axis=1)
        distances[example] = np.inf
        return np.argsort(distances, kind="stable")[:count]


def look(network: TrainedNetwork, data_path: Path | None = None) -> Insight:
    """Run up to `MOST_EXAMPLES` validation images, evenly chosen, through a network.

    Its data are at `data_path`, or where they were in training.

    Raises:
      InputError: if the data aren't there, or have other classes or another size.
    """
    data = network.data
    path = network.data_path if data_path is None else str(data_path)
    pipeline = open_data(network, path)
    source = pipeline.dataset.splits["validation"]
    count = min(len(source), MOST_EXAMPLES)
    chosen = np.linspace(0, len(source) - 1, count).astype(int)
    examples = [*image_paths.ahead(source.__getitem__, chosen.tolist())]
    stored = np.stack([example["image"] for example in examples])
    logits, hidden = _outputs(network, examples)
    return Insight(
        class_names=data.class_names,
        images=statistics.centre(stored, data.crop),
        labels=np.asarray([example["label"] for example in examples], np.int32),
        probabilities=np.asarray(jax.nn.softmax(logits)),
        hidden=hidden.reshape(count, -1),
        total=len(source),
    )


def _outputs(
    network: TrainedNetwork, examples: list[Example]
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and the last hidden layer."""
    *_, hidden, head = network.model.layers
    mesh = network.all_devices()
    batches = over_images(
        network.extractor(mesh, (head, hidden)),
        examples,
        lambda example: example["image"],
        size=network.data.size,
        batch_size=min(BATCH_SIZE, len(examples)),
        mesh=mesh,
    )
    rows = [results for _, results in batches]
    logits, values = (np.concatenate([r[n] for r in rows]) for n in (head, hidden))
    return logits, values
