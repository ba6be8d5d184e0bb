"""Originals to a prepared data set, which trains without decoding or resizing them.

See `prepared` for what is written. Every picture is stored once as the paper prepares
it: short side resized, centre square cut out (section 2). The training pictures' order
is drawn from a fixed seed, so that shards are alike; labels are the sorted classes.
"""

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from alexnet_jax import errors, pictures, prepared, report, sources
from alexnet_jax.dataset import Example, Source
from alexnet_jax.errors import InputError
from alexnet_jax.moments import PixelSums


EXAMPLES_IN_SHARD = 4096
ENCODERS = {"jpeg": pictures.encode_jpeg, "raw": np.ndarray.tobytes}


def prepare(
    *,
    source: str,
    input_path: Path,
    output: Path,
    encoding: str = "jpeg",
    size: int = 256,
    validation_fraction: float = 0.1,
    threads: int | None = None,
) -> dict[str, Any]:
    """Prepare a data set.

    The same input gives the same bytes, whatever the number of threads. The output
    appears as a whole at the end: it is written beside its place and moved there.

    Args:
      source: `folder`.
      input_path: see `sources.open_folder`.
      output: a folder that is not there yet, or is empty.
      encoding: `jpeg` (quality 95) or `raw` pixels.
      size: side of the stored pictures, in pixels.
      validation_fraction: held out where the input has no validation split.
      threads: that decode and encode; None for one for each core.

    Returns:
      The description that stands in `dataset.json`.

    Raises:
      InputError: if a picture can't be read, or the output can't be written.
    """
    if size < 1:
        raise InputError(f"--size={size} must be at least 1")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output={output} is there already; choose a new folder")
    dataset = sources.open_dataset(
        source=source,
        path=str(input_path),
        size=size,
        validation_fraction=validation_fraction,
    )
    unfinished = output.with_name(output.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"--output={output} can't be written ({error.strerror})"
        ) from error
    sums = PixelSums.zeros(size)
    shards = {
        split: _write_split(
            members,
            unfinished,
            split,
            encoding,
            threads,
            sums if split == "train" else None,
        )
        for split, members in dataset.splits.items()
    }
    statistics = sums.statistics()
    statistics.save_mean(unfinished)
    description = {
        "format_version": prepared.FORMAT_VERSION,
        "size": size,
        "encoding": encoding,
        "jpeg_quality": pictures.JPEG_QUALITY if encoding == "jpeg" else None,
        "resize_filter": pictures.RESIZE_FILTER,
        "class_names": dataset.class_names,
        "counts": {split: len(members) for split, members in dataset.splits.items()},
        "shards": shards,
        **statistics.to_json(),
    }
    text = json.dumps(description, indent=2) + "\n"
    (unfinished / prepared.DATASET_FILE).write_text(text, encoding="utf-8")
    if output.exists():
        output.rmdir()
    unfinished.replace(output)
    return description


def _write_split(
    source: Source,
    folder: Path,
    split: str,
    encoding: str,
    threads: int | None,
    sums: PixelSums | None,
) -> list[dict[str, Any]]:
    """Write a split's shards, add its pictures to the sums, and describe the shards."""
    order = np.arange(len(source))
    if split == "train":
        order = np.random.default_rng(0).permutation(len(source))
    count = -(-len(order) // EXAMPLES_IN_SHARD)
    described = []
    with (
        report.progress_bar() as bar,
        ThreadPoolExecutor(threads or os.cpu_count()) as pool,
    ):
        task = bar.add_task(split, total=len(order), note="")
        for number, indices in enumerate(np.array_split(order, count)):
            name = f"{split}-{number:05d}-of-{count:05d}.array_record"
            writer = ArrayRecordWriter(str(folder / name), "group_size:1,uncompressed")
            for index, example in _in_order(pool, source, indices):
                image = example["image"]
                record = ENCODERS[encoding](image)
                writer.write(
                    prepared.pack(record, example["label"], source.name(index))
                )
                if sums is not None:
                    sums.add(image)
                bar.advance(task)
            writer.close()
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            described.append({"file": name, "examples": len(indices), "sha256": digest})
    return described


def _in_order(
    pool: ThreadPoolExecutor, source: Source, indices: np.ndarray
) -> Iterator[tuple[int, Example]]:
    """Examples in the order of their indices, decoded a bounded number ahead."""
    ahead = 64
    for start in range(0, len(indices), ahead):
        part = [int(index) for index in indices[start : start + ahead]]
        yield from zip(part, pool.map(source.__getitem__, part), strict=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_jax.prepare",
        description="Turn pictures into a data set that trains fast.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--source", choices=("folder",), required=True, help="what the input is")
    add(
        "--input",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder with train/CLASS and validation/CLASS, or CLASS folders at once",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    add("--encoding", choices=tuple(ENCODERS), default="jpeg")
    add("--size", type=int, default=256, help="side of the stored pictures, in pixels")
    add(
        "--validation_fraction",
        type=float,
        default=0.1,
        help="part held out where the input has no validation folder",
    )
    given = vars(parser.parse_args(arguments))
    description = prepare(input_path=given.pop("input"), **given)
    report.print_result(
        {
            "output": str(given["output"]),
            "classes": len(description["class_names"]),
            **description["counts"],
        }
    )


if __name__ == "__main__":
    errors.exit_with(main)
