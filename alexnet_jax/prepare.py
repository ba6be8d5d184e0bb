"""Originals to a prepared data set, which trains without decoding or resizing them.

See `prepared` for what is written. Every picture is stored once as the paper prepares
it: short side resized, centre square cut out (section 2). Shards are written by as many
processes as there are cores, beside the output's place; a preparation that was killed
goes on with the shards that it lacks.
"""

import collections
import importlib.metadata
import itertools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data import images
from alexnet_jax.data.dataset import LARGEST_SIZE, Dataset
from alexnet_jax.data.encoded import Originals
from alexnet_jax.data.prepared import manifest, shard_writer
from alexnet_jax.data.prepared.shard_writer import ShardTask
from alexnet_jax.data.prepared.staging import (
    NOTES_FOLDER,
    SET_FOLDER,
    check_refused,
    unfinished_work,
)
from alexnet_jax.data.sources import registry
from alexnet_jax.data.statistics import MEAN_FILE, PixelSums
from alexnet_jax.runtime import atomic, cli, progress
from alexnet_jax.runtime import process_pool as workers
from alexnet_jax.runtime.cli import Parser
from alexnet_jax.runtime.errors import InputError, check_number


EXAMPLES_IN_SHARD = 4096
SHARDS_AT_LEAST = 16
EXAMPLES_WORTH_A_SHARD = 256


def prepare(
    *,
    source: str,
    input_path: str,
    output: Path,
    encoding: str = "jpeg",
    size: int = 256,
    validation_fraction: float = 0.1,
    on_error: str = "stop",
    workers: int | None = None,
) -> dict[str, Any]:
    """Prepare a data set.

    The same input gives the same bytes, whatever the number of workers and however
    often it was interrupted. The output appears as a whole at the end.

    Args:
      source: `folder`, `imagenet` or `tfds`.
      input_path: the folder, or the set's name in TensorFlow Datasets.
      output: a folder that is not there yet, or is empty.
      encoding: `jpeg` (quality 95) or `raw` pixels.
      size: side of the stored pictures, in pixels.
      validation_fraction: held out where the input has no validation split.
      on_error: what becomes of pictures that can't be read: `stop` prepares the others
        and then refuses with the list, `skip` leaves them out and lists them in
        `dataset.json`.
      workers: processes; None for one for each core.

    Returns:
      The description that stands in `dataset.json`.

    Raises:
      InputError: if pictures can't be read, or the output can't be written.
    """
    output = output.absolute()
    if os.path.ismount(output):
        raise InputError(
            f"--output={output} is where a disk is mounted, and the set is moved to "
            f"its place as a whole; choose a folder in it, like {output / 'prepared'}"
        )
    check_number("--size", size, least=1, below=LARGEST_SIZE + 1)
    if source in ("folder", "imagenet") and not Path(input_path).is_dir():
        raise InputError(f"--input={input_path} is not a folder")
    if workers is not None:
        check_number("--workers", workers, least=1)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output={output} is there already; choose a new folder")
    dataset = registry.open_dataset(
        source=source,
        path=input_path,
        size=size,
        validation_fraction=validation_fraction,
    )
    unfinished = output.with_name(output.name + ".unfinished")
    job = {
        "format_version": manifest.FORMAT_VERSION,
        "source": source,
        "size": size,
        "encoding": encoding,
        "jpeg_quality": images.JPEG_QUALITY if encoding == "jpeg" else None,
        "resize_filter": images.RESIZE_FILTER,
        "versions": {
            name: importlib.metadata.version(name) for name in ("pillow", "simplejpeg")
        },
    }
    try:
        with unfinished_work(unfinished, output, job):
            tasks = _tasks(dataset, unfinished, encoding)
            _write(tasks, workers, refusals=on_error == "skip")
            described = _describe(tasks, dataset, job)
            check_refused(described, on_error, unfinished)
            _finish(unfinished / SET_FOLDER, tasks, described)
            # On the disk before it has its name, whatever happens to the power.
            for path in (*(unfinished / SET_FOLDER).iterdir(), unfinished / SET_FOLDER):
                shard_writer.sync(path)
            (unfinished / SET_FOLDER).replace(output)
            shard_writer.sync(output.parent)
            shutil.rmtree(unfinished)
    except OSError as error:
        raise InputError(
            f"{error.filename or unfinished} can't be written "
            f"({error.strerror or error}); mend that and give the same command again: "
            "finished shards are kept"
        ) from error
    return described


def _tasks(
    dataset: Dataset, unfinished: Path, encoding: str
) -> dict[str, list[ShardTask]]:
    tasks: dict[str, list[ShardTask]] = {}
    for split, originals in dataset.splits.items():
        if not isinstance(originals, Originals):
            raise InputError(f"{originals} has no picture files to prepare")
        total = len(originals)
        # Enough shards to keep many cores busy to the end, and not too many files.
        count = max(
            -(-total // EXAMPLES_IN_SHARD),
            min(SHARDS_AT_LEAST, -(-total // EXAMPLES_WORTH_A_SHARD)),
        )
        borders = np.linspace(0, total, count + 1).astype(int).tolist()
        tasks[split] = [
            ShardTask(
                unfinished
                / SET_FOLDER
                / f"{split}-{number:05d}-of-{count:05d}.array_record",
                unfinished / NOTES_FOLDER,
                originals.part(start, stop),
                encoding,
                measured=split == "train",
            )
            for number, (start, stop) in enumerate(itertools.pairwise(borders))
        ]
    return tasks


def _write(
    tasks: dict[str, list[ShardTask]], processes: int | None, *, refusals: bool
) -> None:
    everything = [task for members in tasks.values() for task in members]
    missing = shard_writer.missing(everything, refusals=refusals)
    notes = {task.path: task.note for task in everything}
    for left in everything[0].path.parent.iterdir():
        # Of an input with more or fewer pictures.
        if left not in notes:
            left.unlink()
    total = sum(len(task.originals) for task in everything)
    left = sum(len(task.originals) for task in missing)
    # A process is not started for less than it takes to start one.
    useful = -(-left // EXAMPLES_WORTH_A_SHARD)
    processes = min(processes or workers.cores(), useful)
    if left < total:
        progress.say(f"going on: {total - left} of {total} pictures are prepared")
    with progress.counted("preparing", total, completed=total - left) as advance:
        for path in workers.spread(
            shard_writer.write_shard, missing, processes=processes, advance=advance
        ):
            # Here, where nothing else is to do, while the workers go on.
            try:
                shard_writer.sync(path)
            except OSError:
                notes[path].unlink()
                raise


def _describe(
    tasks: dict[str, list[ShardTask]], dataset: Dataset, job: dict[str, Any]
) -> dict[str, Any]:
    """What `dataset.json` will say, but for mean and colours."""
    described: dict[str, list[dict[str, Any]]] = {}
    mended: collections.Counter[str] = collections.Counter()
    refused = []
    for split, members in tasks.items():
        described[split] = []
        for task in members:
            note = json.loads(task.note.read_text(encoding="utf-8"))
            del note["sums_sha256"], note["originals"]
            mended.update(note.pop("mended"))
            refused += [{"split": split, **one} for one in note.pop("refused")]
            described[split].append(note)
    return {
        **job,
        "class_names": dataset.class_names,
        "class_ids": dataset.class_ids,
        "counts": {
            split: sum(note["examples"] for note in notes)
            for split, notes in described.items()
        },
        "mended": dict(sorted(mended.items())),
        "refused": refused,
        "shards": described,
    }


def _finish(
    folder: Path, tasks: dict[str, list[ShardTask]], described: dict[str, Any]
) -> None:
    """Complete the description and write it, and the mean picture."""
    sums = PixelSums.zeros(described["size"])
    for task in tasks["train"]:
        sums += PixelSums.load(task.sums)
    statistics = sums.statistics()
    statistics.save_mean(folder)
    described["mean_sha256"] = manifest.sha256(folder / MEAN_FILE)
    described.update(statistics.to_json())
    atomic.write_json(folder / manifest.DATASET_FILE, described)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(
        "prepare",
        description="Turn pictures into a data set that trains fast. What was\n"
        "interrupted goes on where it stood.",
    )
    add = parser.add_argument
    add(
        "--source",
        choices=("folder", "imagenet", "tfds"),
        required=True,
        help="what the input is: class folders, ImageNet's archives, or a set of "
        "TensorFlow Datasets",
    )
    add(
        "--input",
        required=True,
        metavar="PATH_OR_NAME",
        help="folder with train/CLASS and validation/CLASS, or CLASS folders at once; "
        "folder with ImageNet's two tars and its devkit; name like "
        "imagenette/full-size-v2",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    add(
        "--encoding",
        choices=manifest.ENCODINGS,
        default="jpeg",
        help="JPEG of quality 95, or raw pixels: more disk, faster to read",
    )
    add("--size", type=int, default=256, help="side of the stored pictures, in pixels")
    add(
        "--validation_fraction",
        type=float,
        default=0.1,
        help="part held out where the input has no validation split",
    )
    add(
        "--on_error",
        choices=("stop", "skip"),
        default="stop",
        help="pictures that can't be read: refuse with their list (default), or leave "
        "them out and list them in dataset.json",
    )
    add("--workers", type=int, help="processes; by default one for each core")
    given = vars(parser.parse_args(arguments))
    described = prepare(input_path=given.pop("input"), **given)
    progress.print_result(
        {
            "output": str(given["output"]),
            "classes": len(described["class_names"]),
            **described["counts"],
            "mended": described["mended"],
            "refused": len(described["refused"]),
        }
    )


if __name__ == "__main__":
    cli.run_command(main)
