"""Prepares a data set; `data/prepared/preparation.py` does the work."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.data.prepared import manifest
from alexnet_jax.data.prepared.preparation import prepare
from alexnet_jax.data.sources import own
from alexnet_jax.runtime import cli, progress
from alexnet_jax.runtime.cli import Parser
from alexnet_jax.runtime.errors import Interrupted


SOURCES = ("folder", "imagenet", "parquet", "tfds", "webdataset", "arrays")


def _source(text: str) -> str:
    """A source that can be prepared."""
    if text not in SOURCES and not own.is_own(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} unknown; choose from {', '.join(SOURCES)}, or MODULE:FUNCTION"
        )
    return text


def _parser() -> Parser:
    parser = Parser(
        "prepare",
        description="Turn image files into a data set that trains fast. The same\n"
        "command continues a preparation that was interrupted.",
        # What is not given takes the default of `prepare`.
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add(
        "--source",
        type=_source,
        metavar="NAME",
        required=True,
        help="what the input is: `folder`, class folders; `imagenet`, in any layout; "
        "`parquet`, as the Hugging Face Hub has it; `tfds`, TensorFlow Datasets; "
        "`webdataset`, tar shards; `arrays`, an .npz file; or MODULE:FUNCTION, a "
        "function of your own that opens a data set",
    )
    add(
        "--input",
        dest="input_path",
        default=None,
        metavar="PATH_OR_NAME",
        help="a folder with train/CLASS and validation/CLASS, or with CLASS folders "
        "alone; ImageNet's archives, or a folder as Kaggle lays it out; a name like "
        "imagenette/full-size-v2. Files that are no images are counted by reason",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    add(
        "--encoding",
        choices=manifest.ENCODINGS,
        help="JPEG of quality 95 (default), or raw pixels: more disk, faster to read",
    )
    add(
        "--size",
        type=int,
        metavar="N",
        help="side of the stored images, in pixels (default: 256)",
    )
    add(
        "--validation_fraction",
        type=float,
        metavar="X",
        help="fraction held out where the input has no validation split (default: 0.1)",
    )
    add(
        "--image_key",
        metavar="NAME",
        help="what images are called in the set: a column, a feature, a file's ending "
        "(default: what holds images)",
    )
    add(
        "--label_key",
        metavar="NAME",
        help="what classes are called in the set: a column, a feature, a file's ending "
        "or a key of its JSON (default: what holds classes)",
    )
    add(
        "--other_classes",
        choices=("stop", "skip"),
        help="images of a class that only one split has: refuse a class of validation "
        "images alone (default), or leave out all such images, counted",
    )
    add(
        "--on_error",
        choices=("stop", "skip"),
        help="unreadable images: stop with their list after preparing the others "
        "(default), or skip them and list them in dataset.json",
    )
    add("--workers", type=int, help="processes (default: one for each core)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    given = _parser().parse_args(arguments)
    try:
        content = prepare(**vars(given))
    except (KeyboardInterrupt, Interrupted):
        progress.say("stopped; the same command continues with what is prepared")
        raise
    progress.print_result(
        {
            "output": str(given.output),
            "classes": len(content["class_names"]),
            **content["counts"],
            "repaired": content["repaired"],
            "unreadable": len(content["unreadable"]),
            "left_out": content["left_out"],
        }
    )


if __name__ == "__main__":
    cli.run_command(main)
