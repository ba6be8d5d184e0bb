"""Check a prepared data set: every checksum, every record, every picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python.array_record_module import ArrayRecordReader

from alexnet_jax.data.prepared import manifest
from alexnet_jax.data.prepared import record as prepared
from alexnet_jax.data.prepared.manifest import Description, Shard
from alexnet_jax.data.statistics import MEAN_FILE
from alexnet_jax.runtime import cli, errors, process_pool, progress
from alexnet_jax.runtime.cli import Parser
from alexnet_jax.runtime.errors import InputError, check_number


class ShardCheck(NamedTuple):
    """A shard to check, and the set that it is of."""

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
      InputError: if `dataset.json` itself can't be read.
    """
    if workers is not None:
        check_number("--workers", workers, least=1)
    description: Description = manifest.read_description(path)
    faults = []
    try:
        manifest.load_statistics(description)
    except (OSError, ValueError) as error:
        faults.append(f"{path / MEAN_FILE}: {error}")
    tasks = [
        ShardCheck(
            shard, description.size, description.encoding, len(description.class_names)
        )
        for shard in manifest.all_shards(description)
    ]
    total = sum(shard.examples for shard in manifest.all_shards(description))
    with progress.counted("verifying", total) as advance:
        for found in process_pool.spread(
            check_shard,
            tasks,
            # A process is not started for less than it takes to start one.
            processes=workers or min(process_pool.cores(), -(-total // 4096)),
            advance=advance,
        ):
            faults += found
    return sorted(faults)


def check_shard(task: ShardCheck, advance: Callable[[int], None]) -> list[str]:
    """The faults of one shard."""
    shard = task.shard
    try:
        manifest.check_shard(shard)
    except InputError as error:
        return [str(error)]
    faults = []
    try:
        if manifest.sha256(shard.path) != shard.sha256:
            faults.append(f"{shard.path}: its checksum differs")
    except OSError as error:
        return [f"{shard.path}: can't be read ({error.strerror})"]
    try:
        reader = ArrayRecordReader(str(shard.path))
        count = reader.num_records()
    except Exception as error:
        # ArrayRecord raises many kinds on damaged bytes.
        return [*faults, f"{shard.path}: can't be opened ({errors.first_line(error)})"]
    if count != shard.examples:
        faults.append(f"{shard.path}: {count} records where {shard.examples} are named")
    for index in range(count):
        try:
            record = prepared.unpack(reader.read([index])[0])
            prepared.decode(record.picture, task.encoding, task.size)
            if not 0 <= record.label < task.classes:
                raise ValueError(f"label {record.label} of {task.classes} classes")
        except Exception as error:
            faults.append(f"{shard.path}, record {index}: {errors.first_line(error)}")
        advance(1)
    return faults


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(
        "verify",
        description="Check a prepared data set: checksums, records and pictures. It\n"
        "names every fault; exit status 1 where there is one.",
    )
    parser.add_argument("--path", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--workers", type=int, help="processes; by default one for each core"
    )
    given = parser.parse_args(arguments)
    faults = verify(given.path, workers=given.workers)
    for fault in faults:
        progress.say(fault)
    result: dict[str, Any] = {"path": str(given.path), "faults": len(faults)}
    progress.print_result(result)
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    cli.run_command(main)
