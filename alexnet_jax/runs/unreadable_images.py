"""Images that can't be read: found before a run's first step, left out if it says so.

left_out.json     names of the images that the run leaves out, by split
unreadable.txt    every image that can't be read, and why

What is left out is decided once, before step 0, and the same in every resume: the
number of examples decides their order, and so every later step.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax

from alexnet_jax.data.loading.first_pass import Errors, FirstPass, Take, read_all
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.selection import ReplacingSource, lost_classes, without
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import consensus
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError, UnreadableImage
from alexnet_jax.runtime.lock import locked


LEFT_OUT_FILE, UNREADABLE_FILE = "left_out.json", "unreadable.txt"
# Of the images in an error message; the file lists all.
NAMED = 3
READING = "reading images"


def open_readable(
    workdir: Path, pipeline: Pipeline, takers: Mapping[str, Take] | None = None
) -> Pipeline:
    """The pipeline of a run, without the images that the run leaves out.

    Before a run's first step every image is read once, which gives the statistics too.
    A prepared data set has them, and was read when it was prepared.

    Args:
      workdir: of the run.
      pipeline: its data.
      takers: what takes the examples of a split where they are read here.

    Raises:
      InputError: if images can't be read and `on_error` is `stop`, or if leaving them
        out leaves a class or the validation set empty.
    """
    dataset = pipeline.dataset
    statistics = dataset.statistics

    def read_once() -> None:
        nonlocal statistics
        if workdirs.has_checkpoints(workdir):
            return
        # A run that is in use has made its choice, though it has saved nothing yet.
        with locked(workdir, f"{workdir} is in use"):
            (workdir / LEFT_OUT_FILE).unlink(missing_ok=True)
            if statistics is None:
                statistics, unreadable = _read_all(pipeline, READING, takers)
                if any(unreadable.values()):
                    _leave_out(workdir, pipeline, unreadable)

    consensus.in_main(read_once)
    pipeline = leave_out(workdir, pipeline)
    splits = dict(pipeline.dataset.splits)
    if pipeline.on_error == "skip":
        splits = {split: ReplacingSource(source) for split, source in splits.items()}
    dataset = dataclasses.replace(dataset, splits=splits, statistics=statistics)
    return dataclasses.replace(pipeline, dataset=dataset)


def leave_out(workdir: Path, pipeline: Pipeline) -> Pipeline:
    """The pipeline without the images that a run leaves out.

    Raises:
      InputError: if the list of them is damaged.
    """
    path = workdir / LEFT_OUT_FILE
    left_out = workdirs.read_json(path) if path.exists() else {}
    splits = dict(pipeline.dataset.splits)
    for split, names in left_out.items():
        if split not in splits or not isinstance(names, list):
            raise InputError(f"{path} is damaged ({split!r:.40})")
        splits[split] = without(splits[split], map(str, names))
    dataset = dataclasses.replace(pipeline.dataset, splits=splits)
    return dataclasses.replace(pipeline, dataset=dataset)


def measure(workdir: Path, pipeline: Pipeline) -> Statistics:
    """The statistics of a pipeline whose data set has none and was not opened here.

    Raises:
      InputError: if images can't be read.
    """
    statistics, unreadable = _read_all(pipeline, READING)
    if statistics is None or any(unreadable.values()):
        raise _error(workdir, pipeline, unreadable)
    return statistics


def list_unreadable(workdir: Path, pipeline: Pipeline, met: InputError) -> InputError:
    """The error that lists every unreadable image, after a training has met one.

    Of several processes one can't read them all while the others wait for its next
    step: there the image that was met stands alone.
    """
    if jax.process_count() > 1:
        return met
    progress.say(f"error: {met}")
    unreadable = _read_all(pipeline, "checking images").unreadable
    if not any(unreadable.values()):
        return met
    return _error(workdir, pipeline, unreadable)


def _read_all(
    pipeline: Pipeline, what: str, takers: Mapping[str, Take] | None = None
) -> FirstPass:
    total = sum(map(len, pipeline.dataset.splits.values()))
    with progress.counted(what, total) as advance:
        return read_all(pipeline, advance, takers)


def _leave_out(
    workdir: Path, pipeline: Pipeline, unreadable: Mapping[str, Errors]
) -> None:
    """Decide what is left out, or raise the error that lists it."""
    error = _error(workdir, pipeline, unreadable)
    if pipeline.on_error == "stop":
        raise error
    splits = pipeline.dataset.splits
    for split, errors in unreadable.items():
        source = splits[split]
        gone = lost_classes(source, errors) if split == "train" else []
        if gone or len(errors) == len(source):
            name = pipeline.dataset.class_names[gone[0]] if gone else None
            what = f"class {name}" if gone else f"split {split}"
            raise InputError(f"no image of {what} can be read; {error}")
    names = {s: [splits[s].name(i) for i in e] for s, e in unreadable.items() if e}
    workdirs.write_json(workdir / LEFT_OUT_FILE, names)
    left_out = progress.counting(sum(map(len, names.values())), "image")
    progress.say(
        f"left out: {left_out} that can't be read, listed in "
        f"{workdir / UNREADABLE_FILE}"
    )


def _error(
    workdir: Path, pipeline: Pipeline, unreadable: Mapping[str, Errors]
) -> UnreadableImage:
    """The error that names the first unreadable images, after listing all in a file."""
    reasons = [str(e) for errors in unreadable.values() for e in errors.values()]
    listed = workdir / UNREADABLE_FILE
    with writing(listed):
        atomic.replace(listed, "\n".join(reasons) + "\n")
    total = sum(map(len, pipeline.dataset.splits.values()))
    ways = "Fix them"
    if pipeline.on_error != "skip":
        ways += ", or train without them: --config.data.on_error=skip"
    return UnreadableImage(
        f"{len(reasons)} of {total} images can't be read (all are listed in {listed}): "
        f"{'; '.join(reasons[:NAMED])}. {ways}"
    )
