"""Write down what any layer of a network makes of many pictures.

    python -m alexnet_jax.features --workdir=run --input=pictures --layer=fc7,conv5 \\
        --output=features.zarr

The output is a Zarr group (`pip install zarr`) with an array for each layer, and
`name` and `label` beside them; or, where its name ends in .npy, one layer as a NumPy
array and a .csv of names and labels. `conv5` is a layer after its non-linearity,
`conv5.linear` before it, `norm1` and `pool5` are what they say. In the last axis towers
stand side by side, tower 0 first. Rows are written as they come, so memory does not
grow with the number of pictures, and the same command goes on where it was stopped.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from alexnet_jax.data import dataset as datasets
from alexnet_jax.data import image_files
from alexnet_jax.data.prepared import manifest
from alexnet_jax.data.sources.registry import open_dataset
from alexnet_jax.inference import feature_store
from alexnet_jax.inference.trained import Member, open_member
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.cli import Parser, run_command
from alexnet_jax.runtime.errors import Failure, InputError, check_number


BATCH_SIZE = 64
NO_LABEL = -1


class Row(NamedTuple):
    """A picture on its way through the network, or why it can't be read."""

    name: str
    label: int
    image: UInt8[np.ndarray, "size size 3"] | None
    error: InputError | None


class Input(NamedTuple):
    """Pictures in an order: how many, what tells them apart, and a way to read them."""

    total: int
    fingerprint: str
    rows: Callable[[int], Iterator[Row]]


def write_features(
    workdir: Path,
    given: Path,
    layers: Sequence[str],
    output: Path,
    *,
    split: str = "validation",
    checkpoint: str | int = "best",
    batch_size: int = BATCH_SIZE,
) -> int:
    """Write the features of every picture; see the top of this file.

    Args:
      workdir: of a run.
      given: a folder of pictures at any depth, or a prepared data set.
      layers: out of `model.features`.
      output: a .zarr folder or a .npy file, which is not there yet.
      split: of a prepared data set.
      checkpoint: `best`, `latest` or a step.
      batch_size: pictures at a time.

    Returns:
      How many pictures could not be read; their rows are NaN, and they were named on
      standard error.

    Raises:
      InputError: if something isn't there, a layer is unknown, or the output is.
    """
    check_number("--batch_size", batch_size, least=1)
    member = open_member(workdir, checkpoint)
    model = member.model
    unknown = [name for name in layers if name not in model.features]
    if unknown or not layers:
        raise InputError(
            f"no layer {', '.join(unknown)!r}; choose from {', '.join(model.features)}"
        )
    pictures = open_input(given, member, split)
    params, side = member.plain_params, member.data.size
    batch_size = min(batch_size, pictures.total)

    @jax.jit
    def run(params: Any, images: Array) -> dict[str, Array]:
        return member.activations(params, images, tuple(layers))[1]

    abstract = jax.ShapeDtypeStruct((batch_size, side, side, 3), jnp.uint8)
    shapes = jax.eval_shape(run, params, abstract)
    output_file = feature_store.open_output(
        output,
        {name: (pictures.total, *shapes[name].shape[1:]) for name in layers},
        rows_at_once=batch_size,
        job={
            "workdir": str(workdir.absolute()),
            "step": member.step,
            "layers": list(layers),
            "input": pictures.fingerprint,
            "batch_size": batch_size,
        },
    )
    pending: tuple[list[Row], dict[str, Array]] | None = None
    with (
        output_file as file,
        progress.counted("pictures", pictures.total, completed=file.done) as advance,
    ):
        rows = pictures.rows(file.done)
        while True:
            group = list(itertools.islice(rows, batch_size))
            started = None
            if group:
                images = image_files.stacked((r.image for r in group), batch_size, side)
                started = group, run(params, images)
            if pending is not None:
                # While the device works on the next ones.
                _write(file, *pending)
                advance(len(pending[0]))
            if (pending := started) is None:
                return file.refused


def _write(
    file: feature_store.Output, group: list[Row], values: dict[str, Array]
) -> None:
    """Write a batch's rows, and name the pictures that could not be read."""
    bad = [place for place, row in enumerate(group) if row.error is not None]
    host = {}
    for name, value in jax.device_get(values).items():
        host[name] = np.array(value[: len(group)])
        host[name][bad] = np.nan
    for place in bad:
        progress.say(f"error: {group[place].error}")
    names, labels = [row.name for row in group], [row.label for row in group]
    file.append(host, names, labels, len(bad))


def open_input(given: Path, member: Member, split: str) -> Input:
    """The pictures of a folder or of a prepared data set.

    Raises:
      InputError: if there are none, or they are stored at another size.
    """
    if (given / manifest.DATASET_FILE).is_file():
        return _prepared(given, member, split)
    if not given.is_dir():
        raise InputError(f"--input={given} is not a folder")
    paths = image_files.find([str(given)])
    # Pictures in a folder that is named as a class have its label.
    labels = {name: label for label, name in enumerate(member.data.class_names)}

    def rows(start: int) -> Iterator[Row]:
        for path, image, error in image_files.shown(paths[start:], member.data.size):
            label = labels.get(path.parent.name, NO_LABEL)
            yield Row(str(path.relative_to(given)), label, image, error)

    names = datasets.fingerprint(
        f"{path.relative_to(given)}/{path.stat().st_size}" for path in paths
    )
    return Input(len(paths), names, rows)


def _prepared(given: Path, member: Member, split: str) -> Input:
    size = member.data.size
    dataset = open_dataset(
        source="prepared", path=str(given), size=size, validation_fraction=0.1
    )
    if dataset.size != size:
        raise InputError(
            f"{given} is stored at {dataset.size} pixels a side and the network of "
            f"{member.workdir} takes {size}; prepare it with --size={size}"
        )
    source = dataset.splits[split]
    if not len(source):
        raise InputError(f"{given} has no picture in its split {split}")

    def row(index: int) -> Row:
        try:
            example = source[index]
            name = source.name(index)
        except InputError as error:
            return Row(source.where(index), NO_LABEL, None, error)
        return Row(name, example["label"], example["image"], None)

    return Input(
        len(source),
        f"{dataset.fingerprint}/{split}",
        lambda start: image_files.ahead(row, range(start, len(source))),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser("features", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, metavar="DIR", help="of a run")
    add(
        "--input",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="pictures at any depth, or a prepared data set",
    )
    add("--layer", required=True, metavar="NAME[,NAME]", help="as conv5, fc7.linear")
    add(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=".zarr, or .npy for one layer",
    )
    add("--split", default="validation", choices=("train", "validation"))
    parser.add_checkpoint()
    add("--batch_size", type=int, default=BATCH_SIZE, metavar="N")
    given = parser.parse_args(arguments)
    refused = write_features(
        given.workdir,
        given.input,
        given.layer.split(","),
        given.output,
        split=given.split,
        checkpoint=given.checkpoint,
        batch_size=given.batch_size,
    )
    if refused:
        raise Failure(f"{refused} of the pictures can't be read; their rows are NaN")


if __name__ == "__main__":
    run_command(main)
