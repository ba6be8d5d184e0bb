"""Features of many images, from a folder or a prepared data set to a file."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from alexnet_jax.data.image_tree import printable
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.inference import feature_store
from alexnet_jax.inference.extraction_input import Input, Row, open_input
from alexnet_jax.inference.image_batches import over_images
from alexnet_jax.inference.trained import TrainedNetwork, open_trained
from alexnet_jax.runs.provenance import environment
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError, check_number
from alexnet_jax.training import evaluation
from alexnet_jax.training.step import Batch


BATCH_SIZE = 64


def write_features(
    workdir: Path,
    given: Path | None,
    layers: str | Sequence[str],
    output: Path,
    *,
    source: str | None = None,
    split: str = "all",
    checkpoint: str | int = "best",
    dtype: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> int:
    """Write the features of every image, or continue a file that was stopped.

    Args:
      workdir: of a run.
      given: a folder of images at any depth, or a prepared data set; or what `source`
        opens. Labels and class names are its own.
      layers: out of `model.features`, or one of them.
      output: a .zarr folder or a .npy file that doesn't exist, or an unfinished one.
      source: None, or the source of a data set; see `open_dataset`.
      split: `all`, or `train` or `validation` of a data set.
      checkpoint: `best`, `latest` or a step.
      dtype: type of the computation; None for the run's own. Float32 is written.
      batch_size: images at a time.

    Returns:
      How many images could not be read; their rows are NaN.

    Raises:
      InputError: if something isn't there, a layer is unknown, or the output exists.
    """
    check_number("--batch_size", batch_size, least=1)
    layers = [layers] if isinstance(layers, str) else list(layers)
    network = open_trained(workdir, checkpoint, dtype)
    _check_layers(layers, network.model.features)
    images = open_input(given, network.data.size, split, source)
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
            "parameters_sha256": network.digest,
            "layers": layers,
            "input": images.fingerprint,
            "batch_size": batch_size,
            **({} if dtype is None else {"dtype": dtype}),
        },
        attributes=_attributes(network, given or source or "", images),
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


def _attributes(
    network: TrainedNetwork, given: Path | str, images: Input
) -> dict[str, object]:
    """Where features come from: what a file of them says of itself, as JSON."""
    data = network.data
    return {
        "run": printable(network.workdir.absolute()),
        "step": network.step,
        "parameters_sha256": network.digest,
        "preset": network.preset,
        "dtype": network.model.dtype,
        "outputs": list(data.class_names),
        "preprocessing": {
            "size": data.size,
            "crop": data.crop,
            "pixels": "short side resized to `size`, centre cut out, then the centre "
            "crop; RGB of 0 to 255 less the mean image",
            "mean": network.mean.mean(axis=(0, 1), dtype=np.float64).tolist(),
            "mean_sha256": hashlib.sha256(network.mean.tobytes()).hexdigest(),
        },
        "input": printable(given.absolute() if isinstance(given, Path) else given),
        "splits": images.splits,
        "class_names": list(images.class_names),
        "versions": environment()["versions"],
    }


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
