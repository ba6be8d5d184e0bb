"""Classify images: the best classes of each, with their probabilities."""

import json
from collections.abc import Sequence

from alexnet_jax.data import image_paths
from alexnet_jax.data.image_tree import printable
from alexnet_jax.inference.prediction import Prediction, predict
from alexnet_jax.runs import pretrained
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.cli import Parser, path_text, run_command
from alexnet_jax.runtime.errors import Failure


def _shown(prediction: Prediction, as_json: bool) -> str:
    if as_json:
        classes = [
            {"name": name, "probability": probability}
            for name, probability in prediction.classes
        ]
        return json.dumps({"image": printable(prediction.path), "classes": classes})
    lines = [f"{value:7.1%}  {name}" for name, value in prediction.classes]
    return "\n".join([printable(prediction.path), *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(
        "predict",
        description="Classify images: the five best classes of each. An image that\n"
        "can't be read is named on standard error, and the others continue. So is the\n"
        "number of files in a folder that are no images.",
    )
    add = parser.add_argument
    parser.add_workdir()
    add(
        "images",
        nargs="+",
        type=path_text,
        metavar="IMAGE",
        help="files, folders or patterns",
    )
    parser.add_views()
    parser.add_checkpoint()
    parser.add_dtype()
    add("--json", action="store_true", help="a JSON object a line for each image")
    given = parser.parse_args(arguments)
    failed = 0
    for prediction in predict(
        pretrained.found(given.workdir),
        image_paths.find(given.images),
        views=given.views,
        checkpoint=given.checkpoint,
        dtype=given.dtype,
    ):
        if prediction.error is not None:
            failed += 1
            progress.say(f"error: {prediction.error}")
        else:
            progress.show(_shown(prediction, given.json))
    if failed:
        raise Failure(f"{failed} of the images can't be read; the others are above")


if __name__ == "__main__":
    run_command(main)
