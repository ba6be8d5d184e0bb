"""Features of many images, from a folder or a prepared data set to a file."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, UInt8

from alexnet_jax.data import dataset as datasets
from alexnet_jax.data import image_paths
from alexnet_jax.data.prepared import manifest
from alexnet_jax.data.prepared.record import open_prepared
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.inference import feature_store
from alexnet_jax.inference.image_batches import over_images
from alexnet_jax.inference.trained import TrainedNetwork, open_trained
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError, check_number
from alexnet_jax.training import evaluation
from alexnet_jax.training.step import Batch


BATCH_SIZE = 64
NO_LABEL = -1


class Row(NamedTuple):
    """An image to extract features from, or why it can't be read."""

    name: str
    label: int
    image: UInt8[np.ndarray, "size size 3"] | None
    error: InputError | None


class Input(NamedTuple):
    """Images in an order: how many, a checksum, and a function that reads them from a
    number on."""

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
    """Write the features of every image, or continue a file that was stopped.

    Args:
      workdir: of a run.
      given: a folder of images at any depth, or a prepared data set.
      layers: out of `model.features`.
      output: a .zarr folder or a .npy file that doesn't exist, or an unfinished one.
      split: of a prepared data set.
      checkpoint: `best`, `latest` or a step.
      batch_size: images at a time.

    Returns:
      How many images could not be read; their rows are NaN.

    Raises:
      InputError: if something isn't there, a layer is unknown, or the output exists.
    """
    check_number("--batch_size", batch_size, least=1)
    network = open_trained(workdir, checkpoint)
    _check_layers(layers, network.model.features)
    images = _open_input(given, network, split)
    size, mesh = network.data.size, network.all_devices()
    batch_size = min(batch_size, images.total)
    extract = network.extractor(mesh, layers)
    shapes = _row_shapes(extract, batch_size, size, mesh)
    output_file = feature_store.open_output(
        output,
        {name: (images.total, *shapes[name]) for name in layers},
        rows_at_once=batch_size,
        job={
            "workdir": str(workdir.absolute()),
            "step": network.step,
            "layers": list(layers),
            "input": images.fingerprint,
            "batch_size": batch_size,
        },
    )
    with (
        output_file as file,
        progress.counted("images", images.total, completed=file.done) as advance,
    ):
        rest, image_of = images.rows(file.done), lambda row: row.image
        for rows, values in over_images(
            extract, rest, image_of, size=size, batch_size=batch_size, mesh=mesh
        ):
            _write(file, rows, values)
            advance(len(rows))
        return file.refused


def _check_layers(layers: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in layers if name not in known]
    if unknown or not layers:
        raise InputError(
            f"no layer {', '.join(unknown)!r}; choose from {', '.join(known)}"
        )


def _row_shapes(
    extract: Callable[[Batch], dict[str, Array]], count: int, size: int, mesh: Mesh
) -> dict[str, tuple[int, ...]]:
    """The shape of each layer's row, computed without running the network."""
    shape = (evaluation.places(count, mesh), size, size, 3)
    sharding = NamedSharding(mesh, meshes.EXAMPLES)
    images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharding)
    shapes = jax.eval_shape(extract, {"image": images})
    return {name: shape.shape[1:] for name, shape in shapes.items()}


def _write(
    file: feature_store.Output, rows: list[Row], values: evaluation.HostBatch
) -> None:
    """Write a batch's rows, and name the images that could not be read."""
    unread = [place for place, row in enumerate(rows) if row.error is not None]
    if unread:
        # Copied: JAX gives its results as arrays that can't be written to.
        values = {name: np.array(value) for name, value in values.items()}
        for column in values.values():
            column[unread] = np.nan
    for place in unread:
        progress.say(f"error: {rows[place].error}")
    names, labels = [row.name for row in rows], [row.label for row in rows]
    file.append(values, names, labels, len(unread))


def _open_input(given: Path, network: TrainedNetwork, split: str) -> Input:
    """The images of a folder or of a prepared data set."""
    if (given / manifest.DATASET_FILE).is_file():
        return _prepared(given, network, split)
    if not given.is_dir():
        raise InputError(f"--input={given} is not a folder")
    paths = image_paths.find([str(given)])
    # Images in a folder that is named like a class have its label.
    labels = {name: label for label, name in enumerate(network.data.class_names)}

    def rows(start: int) -> Iterator[Row]:
        for path, image, error in image_paths.shown(paths[start:], network.data.size):
            label = labels.get(path.parent.name, NO_LABEL)
            yield Row(str(path.relative_to(given)), label, image, error)

    names = datasets.fingerprint(
        f"{path.relative_to(given)}/{path.stat().st_size}" for path in paths
    )
    return Input(len(paths), names, rows)


def _prepared(given: Path, network: TrainedNetwork, split: str) -> Input:
    size = network.data.size
    # The set has its own size and splits.
    dataset = open_prepared(str(given), size, validation_fraction=0.1)
    if dataset.size != size:
        raise InputError(
            f"{given} is stored at {dataset.size} pixels a side and the network of "
            f"{network.workdir} takes {size}; prepare it with --size={size}"
        )
    source = dataset.splits[split]
    if not len(source):
        raise InputError(f"{given} has no image in its split {split}")

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
        lambda start: image_paths.ahead(row, range(start, len(source))),
    )
