"""Data sets in memory, and a data set in one file.

As a command it writes a prepared data set into one file, which the experiments also
take as `--data`: to carry it to another machine.

    python experiments/arrays.py --data=PREPARED --output=FILE.npz

Commands read it with --config.data.source=arrays, and `prepare` with --source=arrays.
"""

import argparse
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

# isort: split

import numpy as np

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.sources.arrays import ArraySource, array_dataset, save_arrays
from alexnet_jax.data.sources.registry import open_dataset
from alexnet_jax.runtime import atomic, cli, progress
from alexnet_jax.runtime.cli import Parser


HELD_OUT_DIGITS = 0.2


def chosen(given: argparse.Namespace, parser: Parser, *, quick_size: int) -> Dataset:
    """The data set an experiment is asked to learn: `--data`, or digits of this size
    for `--quick`.

    Raises:
      InputError: if neither is given, or it can't be read.
    """
    if given.quick:
        return digits(quick_size)
    if given.data is None:
        parser.error("give --data, or --quick")
    return open_data(given.data)


def open_data(path: Path) -> Dataset:
    """A data set whose splits lie in memory.

    Args:
      path: what `save_arrays` wrote, or a prepared data set.

    Raises:
      InputError: if it is neither.
    """
    source = "arrays" if path.suffix == ".npz" else "prepared"
    dataset = open_dataset(
        source=source, path=str(path), size=256, validation_fraction=0.1
    )
    return dataset if source == "arrays" else held(dataset)


def digits(size: int) -> Dataset:
    """The scanned digits that come with scikit-learn, in memory."""
    return held(
        open_dataset(
            source="digits", path=None, size=size, validation_fraction=HELD_OUT_DIGITS
        )
    )


def held(dataset: Dataset) -> Dataset:
    """A data set read into memory."""
    images, labels = {}, {}
    for split, source in dataset.splits.items():
        examples = [source[index] for index in range(len(source))]
        images[split] = np.stack([example["image"] for example in examples])
        labels[split] = np.asarray([example["label"] for example in examples], np.int32)
    return array_dataset(images, labels, dataset.class_names)


def source_of(dataset: Dataset, split: str) -> ArraySource:
    """The arrays of a split of a data set in memory."""
    source = dataset.splits[split]
    assert isinstance(source, ArraySource)
    return source


def main() -> None:
    parser = Parser(description=__doc__, prog="python experiments/arrays.py")
    parser.add_argument("--data", type=Path, required=True, metavar="PREPARED")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.npz")
    given = parser.parse_args()
    if given.output.suffix != ".npz":
        parser.error(f"--output={given.output} must end in .npz")
    dataset = open_data(given.data)
    with atomic.writing(given.output):
        save_arrays(given.output, dataset)
    counts = {name: len(source) for name, source in dataset.splits.items()}
    progress.print_result({"output": str(given.output), **counts})


if __name__ == "__main__":
    cli.run_command(main)
