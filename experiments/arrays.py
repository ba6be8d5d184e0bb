"""Data sets in memory, and batches out of them without Grain.

Batches are made by the package's own code, so that a step, an example's place and the
seed decide them here too; only the order of the examples is drawn by NumPy instead of
Grain.

As a command it writes a prepared data set into one file, which the experiments also
take as `--data`; reading it needs neither Grain nor its record format:

    python experiments/arrays.py --data=PREPARED --output=FILE.npz
"""

import concurrent.futures
import dataclasses
import functools
import sys
import zipfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

# isort: split

import numpy as np

from alexnet_jax.data.dataset import Dataset, Example
from alexnet_jax.data.loading import batching
from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.data.statistics import PixelSums, Statistics
from alexnet_jax.runtime import atomic, cli, progress
from alexnet_jax.runtime.cli import Parser
from alexnet_jax.runtime.errors import InputError


THREADS = 1
SECONDS_A_BATCH = 300.0


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Examples that lie in two arrays."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], "label": int(self.labels[index])}

    @functools.cached_property
    def statistics(self) -> Statistics:
        """Mean image and colour PCA."""
        sums = PixelSums.zeros(self.images.shape[1])
        for image in self.images:
            sums.add(image)
        return sums.statistics()

    def name(self, index: int) -> str:
        """The example's place."""
        return str(index)

    def where(self, index: int) -> str:
        """The example's place."""
        return f"example {index} in memory"


def chosen(given: Any, parser: Parser, *, quick_size: int) -> Dataset:
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
    if path.suffix == ".npz":
        return _load_arrays(path)
    # Not above: it needs what reads prepared data sets, and that needs Grain's format.
    from alexnet_jax.data.sources.registry import open_dataset

    dataset = open_dataset(
        source="prepared", path=str(path), size=256, validation_fraction=0.1
    )
    return dataclasses.replace(
        dataset, splits={name: held(split) for name, split in dataset.splits.items()}
    )


def digits(size: int) -> Dataset:
    """The scanned digits that come with scikit-learn, in memory."""
    from alexnet_jax.data.sources.digits import open_digits

    dataset = open_digits(None, size, 0.2)
    return dataclasses.replace(
        dataset, splits={name: held(split) for name, split in dataset.splits.items()}
    )


def held(source: Any) -> ArraySource:
    """A source read into memory."""
    examples = [source[index] for index in range(len(source))]
    return ArraySource(
        images=np.stack([example["image"] for example in examples]),
        labels=np.asarray([example["label"] for example in examples], np.int32),
    )


def save_arrays(path: Path, dataset: Dataset) -> None:
    """Write a data set in memory to an npz file, to be carried to another machine."""
    arrays = {
        f"{split}_{kind}": getattr(source, kind)
        for split, source in dataset.splits.items()
        for kind in ("images", "labels")
    }
    names = np.asarray(dataset.class_names)
    np.savez(path, class_names=names, fingerprint=dataset.fingerprint, **arrays)


def _load_arrays(path: Path) -> Dataset:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        names = tuple(arrays["class_names"].tolist())
        splits = {
            name: ArraySource(arrays[f"{name}_images"], arrays[f"{name}_labels"])
            for name in ("train", "validation")
        }
        fingerprint = str(arrays["fingerprint"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no file of arrays ({error})") from error
    return Dataset(
        splits=splits,
        class_names=names,
        class_ids=names,
        size=splits["train"].images.shape[1],
        fingerprint=fingerprint,
    )


def train_batches(
    source: ArraySource,
    statistics: Statistics,
    start: int,
    *,
    batch_size: int,
    seed: int,
    crop: int,
    crops: bool,
    flip: bool,
) -> Generator[HostBatch]:
    """The batches from a step on, each made while the one before is learned from.

    Batches continue across the borders of epochs, and each epoch has its own order.
    """
    count = len(source)

    def example(place: int) -> int:
        return int(_order(seed, place // count, count)[place % count])

    def make(number: int) -> HostBatch:
        places = range(number * batch_size, (number + 1) * batch_size)
        return batching.train_batch(
            number,
            np.asarray([example(place) for place in places]),
            source=source,
            crop=crop,
            border=source.images.shape[1] - crop,
            crops=crops,
            flip=flip,
            statistics=statistics,
            seed=seed,
            threads=THREADS,
            timeout=SECONDS_A_BATCH,
        )

    with concurrent.futures.ThreadPoolExecutor(1) as ahead:
        number = start
        next_one = ahead.submit(make, number)
        while True:
            number += 1
            this, next_one = next_one, ahead.submit(make, number)
            yield this.result()


# Of the epoch before, the last batch may still be made.
@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def evaluation_batches(source: ArraySource, batch_size: int) -> Iterator[HostBatch]:
    """Each example once; what is past the end is masked."""
    for start in range(0, len(source), batch_size):
        yield batching.evaluation_batch(
            np.arange(start, start + batch_size),
            source=source,
            size=source.images.shape[1],
            threads=THREADS,
            timeout=SECONDS_A_BATCH,
        )


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
