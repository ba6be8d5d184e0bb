"""Name what is in pictures: the best classes of each, with their probabilities."""

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.data import image_files
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.inference.trained import open_member
from alexnet_jax.runtime.cli import Parser, run_command
from alexnet_jax.runtime.errors import Failure, InputError
from alexnet_jax.training import losses


BEST = 5
BATCH_SIZE = 32


class Prediction(NamedTuple):
    """The best classes of a picture, best first, each with its probability; or, without
    any, why the picture can't be read."""

    path: Path
    classes: tuple[tuple[str, float], ...]
    error: InputError | None


def predict(
    workdir: Path,
    paths: Sequence[Path],
    *,
    views: int = 1,
    checkpoint: str | int = "best",
    best: int = BEST,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Prediction]:
    """Predictions of picture files, in their order.

    Args:
      workdir: of a run.
      paths: picture files.
      views: 1 for the centre; 10 for corners, centre and their mirrors, averaged.
      checkpoint: `best`, `latest` or a step.
      best: how many classes.
      batch_size: pictures at a time.

    Raises:
      InputError: if there is no such checkpoint. A picture that can't be read has its
        error in its prediction, and the others go on.
    """
    member = open_member(workdir, checkpoint)
    mesh = meshes.one_device()
    run = member.evaluator(mesh, views)
    size, names = member.data.size, member.data.class_names
    batch_size = min(batch_size, len(paths))
    pictures = image_files.shown(paths, size)
    while group := list(itertools.islice(pictures, batch_size)):
        batch = {
            "image": image_files.stacked((s.image for s in group), batch_size, size),
            "label": np.zeros(batch_size, np.int32),
            "mask": np.zeros(batch_size, np.bool_),
        }
        _, logits = run(meshes.to_devices(batch, mesh))
        probabilities = np.exp(losses.log_mean_probabilities(logits))
        for shown, row in zip(group, probabilities, strict=False):
            order = np.argsort(-row, kind="stable")[:best]
            classes = tuple((names[label], float(row[label])) for label in order)
            yield Prediction(shown.path, () if shown.error else classes, shown.error)


def _told(prediction: Prediction, as_json: bool) -> str:
    if as_json:
        classes = [
            {"name": name, "probability": probability}
            for name, probability in prediction.classes
        ]
        return json.dumps({"picture": str(prediction.path), "classes": classes})
    lines = [f"{value:7.1%}  {name}" for name, value in prediction.classes]
    return "\n".join([str(prediction.path), *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(
        "predict",
        description="Name what is in pictures: the five best classes of each. One\n"
        "that can't be read is named on standard error, and the others\n"
        "go on.",
    )
    add = parser.add_argument
    add("--workdir", type=Path, required=True, metavar="DIR", help="of a run")
    add("pictures", nargs="+", metavar="PICTURE", help="files, folders or patterns")
    parser.add_views()
    parser.add_checkpoint()
    add("--json", action="store_true", help="a JSON object a line for each picture")
    given = parser.parse_args(arguments)
    failed = 0
    for prediction in predict(
        given.workdir,
        image_files.find(given.pictures),
        views=given.views,
        checkpoint=given.checkpoint,
    ):
        if prediction.error is not None:
            failed += 1
            print(f"error: {prediction.error}", file=sys.stderr)
        else:
            print(_told(prediction, given.json), flush=True)
    if failed:
        raise Failure(f"{failed} of the pictures can't be read; the others are above")


if __name__ == "__main__":
    run_command(main)
