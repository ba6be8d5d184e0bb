"""What a trained network makes of its validation pictures: for figures and tables."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from alexnet_jax.data import image_files, statistics
from alexnet_jax.inference.trained import Member
from alexnet_jax.runs.config import call


# More pictures would not be seen in a panel, and are long to look at on a CPU.
MOST_EXAMPLES = 1024
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Insight:
    """Validation examples as a network sees them.

    Attributes:
      class_names: by label.
      images: the crops that it saw.
      labels: their classes.
      probabilities: what it gives each class.
      hidden: the last hidden layer, by which pictures are near or far.
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
        """The best class of each."""
        return self.probabilities.argmax(axis=1)

    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """How many examples of a class (row) were taken for each (column)."""
        classes = len(self.class_names)
        pairs = self.labels.astype(np.int64) * classes + self.predicted
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def nearest(self, example: int, count: int) -> Int[np.ndarray, " count"]:
        """The other examples whose last hidden layer is nearest (figure 4)."""
        distances = np.linalg.norm(self.hidden - self.hidden[example], axis=1)
        distances[example] = np.inf
        return np.argsort(distances, kind="stable")[:count]


def look(member: Member, data_path: Path | None = None) -> Insight:
    """Run up to `MOST_EXAMPLES` validation pictures, evenly chosen, through a network.

    Raises:
      InputError: if the data aren't there.
    """
    settings = dict(member.config["data"])
    if data_path is not None:
        settings["path"] = str(data_path)
    pipeline = call({"data": settings}, "data")
    source = pipeline.dataset.splits["validation"]
    count = min(len(source), MOST_EXAMPLES)
    chosen = np.linspace(0, len(source) - 1, count).astype(int)
    examples = [*image_files.ahead(source.__getitem__, chosen.tolist())]
    stored = np.stack([example["image"] for example in examples])
    probabilities, hidden = _outputs(member, stored)
    return Insight(
        class_names=member.data.class_names,
        images=statistics.centre(stored, member.data.crop),
        labels=np.asarray([example["label"] for example in examples], np.int32),
        probabilities=probabilities,
        hidden=hidden,
        total=len(source),
    )


def _outputs(member: Member, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    *_, layer, _ = member.model.layers

    @jax.jit
    def run(params: Any, batch: Array) -> tuple[Array, Array]:
        logits, kept = member.activations(params, batch, (layer,))
        return jax.nn.softmax(logits), kept[layer].reshape(len(batch), -1)

    probabilities, hidden = [], []
    size = min(BATCH_SIZE, len(images))
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        whole = image_files.stacked(batch, size, images.shape[1])
        p, h = jax.device_get(run(member.plain_params, whole))
        probabilities.append(p[: len(batch)])
        hidden.append(h[: len(batch)])
    return np.concatenate(probabilities), np.concatenate(hidden)
