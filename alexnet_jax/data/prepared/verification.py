"""Checks a prepared data set: every checksum, every record, every image."""

import functools
from collections.abc import Callable
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from alexnet_jax.data.prepared import manifest, record
from alexnet_jax.data.prepared.manifest import Shard
from alexnet_jax.data.statistics import MEAN_FILE
from alexnet_jax.runtime import process_pool, progress
from alexnet_jax.runtime.errors import InputError, check_number, first_line


# Starting a process takes longer than checking fewer records.
EXAMPLES_WORTH_A_PROCESS = 4096


def verify(path: Path, *, workers: int | None = None) -> list[str]:
    """The faults of a prepared data set, each a line that names its place.

    The work is done in `workers` processes; None for one for each core.

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
    shards = [*manifest.all_shards(opened)]
    check = functools.partial(
        check_shard,
        size=opened.size,
        encoding=opened.encoding,
        classes=len(opened.class_names),
    )
    total = sum(shard.examples for shard in shards)
    useful = -(-total // EXAMPLES_WORTH_A_PROCESS)
    with progress.counted("verifying", total) as advance:
        for found in process_pool.spread(
            check,
            shards,
            processes=workers or min(process_pool.cores(), useful),
            advance=advance,
        ):
            faults += found
    return sorted(faults)


def check_shard(
    shard: Shard,
    advance: Callable[[int], None],
    *,
    size: int,
    encoding: str,
    classes: int,
) -> list[str]:
    """The faults of one shard; `advance` is called with the number of records read."""
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
            record.decode(found.image, encoding, size)
            if not 0 <= found.label < classes:
                raise ValueError(f"label {found.label} of {classes} classes")
        except Exception as error:
            # So do its records, msgpack and the decoder.
            faults.append(f"{shard.path}, record {index}: {first_line(error)}")
        advance(1)
    return faults
