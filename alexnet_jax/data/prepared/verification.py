"""Checks a prepared data set: every checksum, every record, every image."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from array_record.python.array_record_module import ArrayRecordReader

from alexnet_jax.data.prepared import manifest, record
from alexnet_jax.data.prepared.manifest import Shard
from alexnet_jax.data.statistics import MEAN_FILE
from alexnet_jax.runtime import process_pool, progress
from alexnet_jax.runtime.errors import InputError, check_number, first_line


# Starting a process takes longer than checking fewer records.
EXAMPLES_WORTH_A_PROCESS = 4096


class ShardCheck(NamedTuple):
    """A shard to check, and the manifest's values for its images.

    Attributes:
      shard: the shard.
      size: side of the stored images, in pixels.
      encoding: `jpeg` or `raw`.
      classes: how many classes there are.
    """

    shard: Shard
    size: int
    encoding: str
    classes: int


def verify(path: Path, *, workers: int | None = None) -> list[str]:
    """The faults of a prepared data set, each a line that names its place.

    Args:
      path: the data set's folder.
      workers: processes that read and decode; None for one for each core.

    Raises:
      InputError: if the manifest itself can't be read.
    """
    if workers is not None:
        check_number("--workers", workers, least=1)
    opened = manifest.read_manifest(path)
    faults = []
    try:
        manifest.load_statistics(opened)
    except (OSError, ValueError) as error:
        faults.append(f"{path / MEAN_FILE}: {error}")
    tasks = [
        ShardCheck(shard, opened.size, opened.encoding, len(opened.class_names))
        for shard in manifest.all_shards(opened)
    ]
    total = sum(task.shard.examples for task in tasks)
    useful = -(-total // EXAMPLES_WORTH_A_PROCESS)
    with progress.counted("verifying", total) as advance:
        for found in process_pool.spread(
            check_shard,
            tasks,
            processes=workers or min(process_pool.cores(), useful),
            advance=advance,
        ):
            faults += found
    return sorted(faults)


def check_shard(task: ShardCheck, advance: Callable[[int], None]) -> list[str]:
    """The faults of one shard; `advance` is called with the number of records read."""
    shard = task.shard
    try:
        manifest.check_shard(shard)
    except InputError as error:
        return [str(error)]
    faults = []
    try:
        if manifest.sha256(shard.path) != shard.sha256:
            faults.append(f"{shard.path}: checksum mismatch")
    except OSError as error:
        return [f"{shard.path}: can't be read ({error.strerror})"]
    try:
        reader = ArrayRecordReader(str(shard.path))
        count = reader.num_records()
    except Exception as error:
        # ArrayRecord raises many kinds on damaged bytes.
        return [*faults, f"{shard.path}: can't be opened ({first_line(error)})"]
    if count != shard.examples:
        faults.append(
            f"{shard.path}: {count} records where the manifest says {shard.examples}"
        )
    for index in range(count):
        try:
            found = record.unpack(reader.read([index])[0])
            record.decode(found.image, task.encoding, task.size)
            if not 0 <= found.label < task.classes:
                raise ValueError(f"label {found.label} of {task.classes} classes")
        except Exception as error:
            # So do its records, msgpack and the decoder.
            faults.append(f"{shard.path}, record {index}: {first_line(error)}")
        advance(1)
    return faults
