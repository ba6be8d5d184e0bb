"""Prepares a data set: every image is decoded, resized and stored once.

An image is stored as the paper prepares it: short side resized, centre square cut out
(section 2). Training then reads it without decoding large files or resizing. `record`
describes the format. Shards are written in a staging folder by a process for each core;
a preparation that was killed continues with the shards it lacks.
"""

import importlib.metadata
import itertools
import os
from pathlib import Path

import numpy as np

from alexnet_jax.data import decoding
from alexnet_jax.data.dataset import LARGEST_SIZE, Dataset
from alexnet_jax.data.encoded import EncodedSource
from alexnet_jax.data.image_tree import check_utf8
from alexnet_jax.data.prepared import manifest, shard_notes, shard_writer, staging
from alexnet_jax.data.prepared.manifest import Content
from alexnet_jax.data.prepared.pixel_source import PixelSource
from alexnet_jax.data.prepared.shard_writer import ShardTask
from alexnet_jax.data.sources import own, registry
from alexnet_jax.data.statistics import MEAN_FILE, PixelSums
from alexnet_jax.runtime import (
    atomic,
    clutter,
    optional,
    paths,
    process_pool,
    progress,
)
from alexnet_jax.runtime.errors import Failure, InputError, check_number


EXAMPLES_IN_SHARD = 4096
SHARDS_AT_LEAST = 16
EXAMPLES_WORTH_A_SHARD = 256


def prepare(
    *,
    source: str,
    input_path: str | None,
    output: Path,
    encoding: str = "jpeg",
    size: int = registry.SIZE,
    validation_fraction: float = registry.VALIDATION_FRACTION,
    image_key: str | None = None,
    label_key: str | None = None,
    other_classes: str = "stop",
    on_error: str = "stop",
    workers: int | None = None,
) -> Content:
    """Prepare a data set; returns the content of its manifest.

    The same input gives the same bytes, whatever the number of workers and however
    often it was interrupted. The output appears at the end, complete.

    Args:
      source: what the input is; see `open_dataset`.
      input_path: the folder or file, or the set's name in TensorFlow Datasets; None
        where the source needs none.
      output: a folder that does not exist yet, or is empty.
      encoding: `jpeg` (quality 95) or `raw` pixels.
      size: side of the stored images, in pixels.
      validation_fraction: held out where the input has no validation split.
      image_key, label_key, other_classes: see `open_dataset`.
      on_error: what happens to unreadable images: `stop` prepares the others, then
        raises with the list; `skip` leaves them out and lists them in the manifest.
      workers: processes; None for one for each core.

    Raises:
      InputError: if images can't be read, or the output's folder can't be made.
      Failure: if the disk fails or is full, or a worker is killed.
    """
    if input_path is not None and not own.is_own(source):
        input_path = str(paths.local(input_path, "--input"))
    # The set takes the place of a link's folder, and is staged beside that.
    output = output.resolve() if output.is_symlink() else output.absolute()
    _check_arguments(source, input_path, output, size, workers)
    dataset = registry.open_dataset(
        source=source,
        path=input_path,
        size=size,
        validation_fraction=validation_fraction,
        image_key=image_key,
        label_key=label_key,
        other_classes=other_classes,
    )
    _check_size(dataset, size, input_path or source)
    registry.say_about(dataset, input_path or source)
    folder = staging.staging_folder(output)
    finished = folder / staging.SET_FOLDER
    job = _job(source, size, encoding, image_key)
    try:
        with staging.hold(folder, output, {**job, **_beside(input_path)}):
            tasks = _tasks(dataset, folder, encoding)
            _write_shards(tasks, workers, skip=on_error == "skip")
            notes = shard_notes.read(tasks)
            content = shard_notes.manifest_content(notes, dataset, job)
            gone = shard_notes.lost_classes_of(notes["train"], dataset)
            try:
                staging.check_unreadable(content, on_error, folder, gone)
            except InputError:
                # Without `skip` the next try reads them again anyway.
                if on_error == "skip":
                    shard_notes.forget_unreadable(tasks, notes)
                raise
            _write_statistics(finished, tasks["train"], content)
            atomic.write_json(finished / manifest.DATASET_FILE, content)
            _publish(finished, output)
            staging.empty(folder)
    except OSError as error:
        path, reason = error.filename or folder, error.strerror or str(error)
        raise Failure(staging.cannot_write(path, reason)) from error
    return content


def _publish(finished: Path, output: Path) -> None:
    """Give the finished set its name."""
    # Synced before the rename: after a power cut, what has the output's name is
    # complete.
    for path in (*finished.iterdir(), finished):
        atomic.sync(path)
    # What a system has left in an empty output goes with it.
    for left in output.iterdir() if output.is_dir() else ():
        if clutter.is_clutter(left.name):
            left.replace(finished / left.name)
    finished.replace(output)
    atomic.sync(output.parent)


def _check_size(dataset: Dataset, size: int, where: str) -> None:
    """Raise an InputError if a data set has pixels of another size."""
    if dataset.size != size:
        raise InputError(
            f"{where} has images of {dataset.size} pixels a side, which are stored as "
            f"they are; give --size={dataset.size}"
        )


def _check_arguments(
    source: str, input_path: str | None, output: Path, size: int, workers: int | None
) -> None:
    if os.path.ismount(output):
        raise InputError(
            f"--output={output} is where a disk is mounted, and the set is moved to "
            f"its place as a whole; choose a folder in it, like {output / 'prepared'}"
        )
    check_utf8("--output=", output)
    check_number("--size", size, least=1, below=LARGEST_SIZE + 1)
    if input_path is None and not own.is_own(source):
        raise InputError(f"--source={source} needs --input=PATH_OR_NAME")
    if source in ("folder", "imagenet") and not Path(input_path or "").is_dir():
        raise InputError(f"--input={input_path} is not a folder")
    if workers is not None:
        check_number("--workers", workers, least=1)
    if output.exists() and (not output.is_dir() or clutter.without(output.iterdir())):
        raise InputError(f"--output={output} exists already; choose a new folder")


def _job(
    source: str, size: int, encoding: str, image_key: str | None
) -> dict[str, object]:
    """The options that decide the bytes: only shards of the same ones are kept."""
    return {
        "format_version": manifest.FORMAT_VERSION,
        "source": source,
        "size": size,
        "encoding": encoding,
        "jpeg_quality": decoding.JPEG_QUALITY if encoding == "jpeg" else None,
        "resize_filter": decoding.RESIZE_FILTER,
        # The pixels depend on the libraries that decode and resize.
        "versions": {
            name: importlib.metadata.version(name) for name in ("pillow", "simplejpeg")
        },
        # What tells rows apart does not say which of their images is meant.
        **({} if image_key is None else {"image_key": image_key}),
    }


def _beside(input_path: str | None) -> dict[str, object]:
    """What else must be the same for shards to be kept; the manifest has none of it."""
    installed = optional.is_installed("pillow_heif")
    heif = importlib.metadata.version("pillow-heif") if installed else None
    place = _place(input_path)
    return {"input": place, "decoding": decoding.REVISION, "pillow-heif": heif}


def _place(given: str | None) -> str | None:
    """Where the input lies: elsewhere, files of equal names and lengths may differ."""
    # A name in TensorFlow Datasets is no path, and a range of shards no file.
    if given is None or not (os.path.exists(given) or "{" in given):
        return given
    return os.path.realpath(given)


def _tasks(dataset: Dataset, folder: Path, encoding: str) -> dict[str, list[ShardTask]]:
    """The shards of each split."""
    tasks: dict[str, list[ShardTask]] = {}
    for split, examples in dataset.splits.items():
        total = len(examples)
        source = examples
        if not isinstance(source, EncodedSource):
            of_set = dataset.fingerprint, split
            source = PixelSource(examples, of_set, dataset.size, 0, total)
        # Enough shards to keep many cores busy to the end, and not too many files.
        count = max(
            -(-total // EXAMPLES_IN_SHARD),
            min(SHARDS_AT_LEAST, -(-total // EXAMPLES_WORTH_A_SHARD)),
        )
        borders = np.linspace(0, total, count + 1).astype(int).tolist()
        tasks[split] = [
            ShardTask(
                folder
                / staging.SET_FOLDER
                / f"{split}-{number:05d}-of-{count:05d}.array_record",
                folder / staging.NOTES_FOLDER,
                source.subset(start, stop),
                encoding,
                measured=split == "train",
                classes=len(dataset.class_names),
            )
            for number, (start, stop) in enumerate(itertools.pairwise(borders))
        ]
    return tasks


def _write_shards(
    tasks: dict[str, list[ShardTask]], processes: int | None, *, skip: bool
) -> None:
    """Write the shards that are missing, in worker processes."""
    everything = [task for members in tasks.values() for task in members]
    missing = shard_writer.missing(everything, skip=skip)
    notes = {task.path: task.note for task in everything}
    for file in everything[0].path.parent.iterdir():
        # Left over from an input with more or fewer images.
        if file not in notes and not clutter.is_clutter(file.name):
            file.unlink()
    total = sum(len(task.source) for task in everything)
    left = sum(len(task.source) for task in missing)
    # Starting a process takes longer than writing a few images.
    useful = -(-left // EXAMPLES_WORTH_A_SHARD)
    processes = min(processes or process_pool.cores(), useful)
    if any(isinstance(task.source, PixelSource) for task in everything):
        # Nothing is decoded, and what is in memory is not copied to workers.
        processes = 1
    if left < total:
        progress.say(f"continuing: {total - left} of {total} images are prepared")
    with progress.counted("preparing", total, completed=total - left) as advance:
        for path in process_pool.spread(
            shard_writer.write_shard, missing, processes=processes, advance=advance
        ):
            # Synced by this process, which is idle, while the workers continue.
            try:
                atomic.sync(path)
            except OSError:
                # Without its note the shard is written again by the next try.
                notes[path].unlink()
                raise


def _write_statistics(folder: Path, tasks: list[ShardTask], content: Content) -> None:
    """Write the mean image, and add its checksum and the colours to `content`."""
    sums = PixelSums.zeros(content["size"])
    for task in tasks:
        sums += PixelSums.load(task.sums)
    statistics = sums.statistics()
    statistics.save_mean(folder)
    content["mean_sha256"] = manifest.sha256(folder / MEAN_FILE)
    content.update(statistics.to_json())
