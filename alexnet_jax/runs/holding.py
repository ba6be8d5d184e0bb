"""Which splits of a run's data the devices hold, and how they get there."""

import os
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.data.dataset import Example
from alexnet_jax.data.loading import grain_datasets, prefetch
from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import placement
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training.held import (
    Cut,
    HeldSplit,
    make_evaluation_cut,
    make_train_cut,
)


# Training first: validation images are read once an epoch at most.
SPLITS = ("train", "validation")
# Of a device's memory, how much images take by themselves, and how much where the user
# says so. The rest is for the network's state and what a step needs.
SHARE_OF_AUTO, SHARE_OF_DEVICE = 0.4, 0.8
# Images go to the devices in parts of about so many bytes.
PART_BYTES = 2**24
# Of an example beside its pixels: its label.
LABEL_BYTES = 4
GB = 10**9


def choose(pipeline: Pipeline, mesh: Mesh) -> tuple[str, ...]:
    """The splits that the devices of this process hold, as `data.hold` says.

    Raises:
      InputError: if `data.hold` is `device` and the training images don't fit.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    if on_cpu and pipeline.hold == "auto":
        # A CPU computes where its memory is.
        return ()
    return fitting(pipeline, _memory_of_cpu() if on_cpu else _smallest_memory(mesh))


def fitting(pipeline: Pipeline, memory: int) -> tuple[str, ...]:
    """The splits that devices of so many bytes hold, 0 for a number that is not known;
    a line says what would help where the training images don't fit.

    Raises:
      InputError: if `data.hold` is `device` and they don't.
    """
    if pipeline.hold == "host":
        return ()
    asked = pipeline.hold == "device"
    if not memory:
        # A platform that doesn't say: what is asked for is tried.
        return SPLITS if asked else ()
    share = SHARE_OF_DEVICE if asked else SHARE_OF_AUTO
    needed = held_bytes(pipeline, "train")
    if needed > share * memory:
        images = progress.counting(
            len(pipeline.dataset.splits["train"]), "training image"
        )
        size = (
            f"{images} of {pipeline.dataset.size} pixels need {needed / GB:.3g} GB on "
            f"each device, and {share * memory / GB:.3g} GB are available there "
            f"({share:.0%} of its memory)"
        )
        helps = "prepare smaller images (--size), or use devices with more memory"
        if asked:
            raise InputError(f"data.hold=device: {size}; leave data.hold out, {helps}")
        if needed <= SHARE_OF_DEVICE * memory:
            helps = f"set --config.data.hold=device, {helps}"
        progress.say(f"images are read from the host for every step: {size}; {helps}")
        return ()
    both = needed + held_bytes(pipeline, "validation")
    return SPLITS if both <= share * memory else SPLITS[:1]


def held_bytes(pipeline: Pipeline, split: str) -> int:
    """The bytes that a split takes on each device."""
    return _parts(pipeline, split) * _rows(pipeline, split) * _example_bytes(pipeline)


def hold(
    pipeline: Pipeline, split: str, mesh: Mesh, check: Callable[[], None]
) -> HeldSplit:
    """Read a split once, through its source, onto every device of this process.

    Args:
      pipeline: the data.
      split: by name.
      mesh: the devices.
      check: called after every part; may raise.

    Raises:
      InputError: if an image can't be read.
      DataStalled: if the source hangs.
    """
    total, rows = len(pipeline.dataset.splits[split]), _rows(pipeline, split)
    read = grain_datasets.evaluation_dataset(pipeline, split, batch_size=rows)
    what = f"reading {split} images onto the devices"
    with (
        progress.counted(what, total) as advance,
        prefetch.read(pipeline, read) as batches,
    ):
        placed = placement.RowsOnDevices(len(read), meshes.own_mesh(mesh))
        for batch in batches:
            check()
            advance(int(np.count_nonzero(batch.pop("mask"))))
            placed.add(batch)
    return HeldSplit(**placed.arrays)


def make_cuts(
    pipeline: Pipeline,
    splits: Mapping[str, HeldSplit | None],
    mesh: Mesh,
    check: Callable[[], None],
) -> dict[str, Cut]:
    """The functions that cut a split's batches on the devices; a split that is not
    there yet is read, as by `hold`."""
    cuts: dict[str, Cut] = {}
    for split, there in splits.items():
        held = there or hold(pipeline, split, mesh, check)
        if split == "train":
            cuts[split] = make_train_cut(held, mesh, crop=pipeline.crop)
        else:
            cuts[split] = make_evaluation_cut(held, mesh)
    return cuts


class Collected:
    """A split on its way to the devices of this process, as others read it."""

    def __init__(self, pipeline: Pipeline, split: str, mesh: Mesh) -> None:
        self._size = pipeline.dataset.size
        self._rows = _rows(pipeline, split)
        self._missing = len(pipeline.dataset.splits[split])
        parts = _parts(pipeline, split)
        self._placed = placement.RowsOnDevices(parts, meshes.own_mesh(mesh))
        self._part, self._filled = self._new_part(), 0

    def take(self, examples: Sequence[Example]) -> None:
        """The next examples, in the split's order."""
        for example in examples:
            self._part["image"][self._filled] = example["image"]
            self._part["label"][self._filled] = example["label"]
            self._filled += 1
            self._missing -= 1
            if self._filled == self._rows or not self._missing:
                self._placed.add(self._part)
                # On a CPU, JAX may still read the memory of the last one.
                self._part, self._filled = self._new_part(), 0

    def whole(self) -> HeldSplit | None:
        """What `hold` gives; None where an example is missing."""
        return None if self._missing else HeldSplit(**self._placed.arrays)

    def _new_part(self) -> HostBatch:
        shape = (self._rows, self._size, self._size, 3)
        return {
            "image": np.zeros(shape, np.uint8),
            "label": np.zeros(self._rows, np.int32),
        }


def _example_bytes(pipeline: Pipeline) -> int:
    return pipeline.dataset.size**2 * 3 + LABEL_BYTES


def _rows(pipeline: Pipeline, split: str) -> int:
    """The examples of a part; the last one is filled up with padding."""
    examples = len(pipeline.dataset.splits[split])
    return max(1, min(examples, PART_BYTES // _example_bytes(pipeline)))


def _parts(pipeline: Pipeline, split: str) -> int:
    return -(-len(pipeline.dataset.splits[split]) // _rows(pipeline, split))


def _smallest_memory(mesh: Mesh) -> int:
    """The bytes that JAX may use on each device; 0 where a device doesn't say."""
    found = [device.memory_stats() or {} for device in mesh.local_devices]
    return min(statistics.get("bytes_limit", 0) for statistics in found)


def _memory_of_cpu() -> int:
    """The machine's, shared among the devices that a CPU shows itself as."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return pages * size // jax.local_device_count()
