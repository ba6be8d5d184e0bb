"""Features of many images, from a folder or a prepared data set to a file."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data.decoding import RESIZES
from alexnet_jax.data.image_tree import printable
from alexnet_jax.inference import feature_store, layer_names
from alexnet_jax.inference.components import Components
from alexnet_jax.inference.extraction_input import Input, Row, input_of
from alexnet_jax.inference.feature_file import Contents
from alexnet_jax.inference.image_batches import over_images
from alexnet_jax.inference.reduction import Reduction, check_pool
from alexnet_jax.inference.reduction import pool as pooled_maps
from alexnet_jax.inference.trained import (
    TrainedNetwork,
    open_trained,
    open_untrained,
)
from alexnet_jax.runs.provenance import environment
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError, check_number
from alexnet_jax.training.evaluation import HostBatch


# For memory's sake: on a CPU the maps of a batch take megabytes an image.
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Written:
    """What `write_features` has written.

    Attributes:
      images: how many.
      unreadable: how many of them could not be read; their rows are NaN.
      layers: the shape of each array, rows first.
      step: of the checkpoint.
    """

    images: int
    unreadable: int
    layers: dict[str, tuple[int, ...]]
    step: int


def write_features(
    workdir: Path,
    given: Path | None,
    layers: str | Sequence[str],
    output: Path,
    *,
    source: str | None = None,
    split: str = "all",
    files: Path | None = None,
    checkpoint: str | int = "best",
    untrained: bool = False,
    dtype: str | None = None,
    batch_size: int = BATCH_SIZE,
    pool: str | None = None,
    project: int | None = None,
    pca: int | None = None,
    seed: int = 0,
) -> Written:
    """Write the features of every image, or continue a file that was stopped.

    Args:
      workdir: of a run.
      given, source, split, files: the images; see `open_input`. Labels and class names
        are their own.
      layers: names of layers, or one of them; see `layer_names.resolve`.
      output: a file that doesn't exist, or an unfinished one; see `feature_store`.
      checkpoint: `best`, `latest` or a step.
      untrained: whether initial parameters, those of `seed`, take the checkpoint's
        place.
      dtype: type of the computation; None for the run's own. Float32 is written.
      batch_size: images at a time.
      pool: what is left of a map: `mean`, `max` or `centre`.
      project: values that a random projection leaves, whose seed is `seed`.
      pca: principal components that are kept, learned from these images.

    Raises:
      InputError: if something isn't there, a layer is unknown, or the output exists.
    """
    check_number("--batch_size", batch_size, least=1)
    check_pool(pool)
    if untrained:
        network = open_untrained(workdir, seed, dtype)
    else:
        network = open_trained(workdir, checkpoint, dtype)
    asked = [layers] if isinstance(layers, str) else list(layers)
    names = layer_names.resolve(network.model, asked)
    data = network.data
    images = input_of(network, given, split, source, files)
    if pca is not None and pca > images.total:
        raise InputError(
            f"--pca={pca} needs as many images, and {images.total} are here"
        )
    mesh = network.all_devices()
    batch_size = min(batch_size, images.total)
    extract = network.extractor(mesh, names, pool)
    shapes = _row_shapes(network, names, pool)
    reduction = Reduction(shapes, project=project, pca=pca, seed=seed)
    options = {"pool": pool, "project": project, "pca": pca, "dtype": dtype}
    if project is not None or untrained:
        options["seed"] = seed
    changed = {key: value for key, value in options.items() if value is not None}
    contents = Contents(
        {name: (images.total, *reduction.shape(name)) for name in names},
        rows_at_once=batch_size,
        attributes={
            **_attributes(network, given or source or files or "", images),
            **changed,
            **({"untrained": True} if untrained else {}),
        },
        longest_name=images.longest_name,
    )
    job = {
        "workdir": str(workdir.absolute()),
        "step": network.step,
        "parameters_sha256": network.digest,
        "layers": names,
        "input": images.fingerprint,
        "batch_size": batch_size,
        **changed,
    }

    def batches(start: int) -> Iterator[tuple[list[Row], HostBatch]]:
        return over_images(
            extract,
            images.rows(start),
            lambda row: row.image,
            size=data.size,
            batch_size=batch_size,
            mesh=mesh,
        )

    learned = output.with_name(output.name + ".pca.npz")
    beside = (learned,) if reduction.analysed else ()
    with feature_store.open_output(output, contents, job=job, beside=beside) as file:
        _learn(learned, reduction, batches, images.total, batch_size)
        with progress.counted("images", images.total, file.done) as advance:
            for group, values in batches(file.done):
                _write(file, group, values, reduction)
                advance(len(group))
    return Written(images.total, file.refused, dict(contents.shapes), network.step)


def _learn(
    path: Path,
    reduction: Reduction,
    batches: Callable[[int], Iterator[tuple[list[Row], HostBatch]]],
    total: int,
    batch_size: int,
) -> None:
    """Give the reduction its principal components, in a first pass over the images."""
    if not reduction.analysed:
        return
    components = Components(path, reduction)
    with progress.counted("images for the PCA", total, components.done) as advance:

        def projected() -> Iterator[HostBatch]:
            for group, values in batches(components.done):
                rows = {n: reduction.project(n, values[n]) for n in reduction.analysed}
                yield _with_gaps(group, rows)
                advance(len(group))

        components.learn(projected(), total, batch_size)


def _attributes(
    network: TrainedNetwork, given: Path | str, images: Input
) -> dict[str, object]:
    """Where features come from: what a file of them says of itself, as JSON."""
    data = network.data
    resize = RESIZES[data.resize] if images.cut else "as the data set was prepared"
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
            "resize": resize,
            "pixels": "a square of `size`, then its centre of `crop`; RGB of 0 to 255 "
            "less the mean image",
            "mean": network.mean.mean(axis=(0, 1), dtype=np.float64).tolist(),
            "mean_sha256": hashlib.sha256(network.mean.tobytes()).hexdigest(),
        },
        "input": printable(given.absolute() if isinstance(given, Path) else given),
        "splits": images.splits,
        "class_names": list(images.class_names),
        "versions": environment()["versions"],
    }


def _row_shapes(
    network: TrainedNetwork, names: Sequence[str], pooling: str | None
) -> dict[str, tuple[int, ...]]:
    """The shape of each layer's row, computed without running the network."""
    layers = layer_names.summaries(network.model, network.data.crop)
    shapes = {layer.name: layer.shape for layer in layers if layer.name in names}

    def row(shape: tuple[int, ...]) -> tuple[int, ...]:
        one = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        return jax.eval_shape(lambda maps: pooled_maps(maps, pooling), one).shape[1:]

    return {name: row(shapes[name]) for name in names}


def _with_gaps(rows: Sequence[Row], values: HostBatch) -> HostBatch:
    """A batch's values, with NaN for the images that could not be read."""
    unread = [place for place, row in enumerate(rows) if row.error is not None]
    if unread:
        # Copied: JAX gives its results as arrays that can't be written to.
        values = {name: np.array(value) for name, value in values.items()}
        for column in values.values():
            column[unread] = np.nan
    return values


def _write(
    file: feature_store.Output,
    rows: list[Row],
    values: HostBatch,
    reduction: Reduction,
) -> None:
    """Write a batch's rows, and name the images that could not be read."""
    errors = [row.error for row in rows if row.error is not None]
    for error in errors:
        progress.say(f"error: {error}")
    columns = {name: reduction(name, column) for name, column in values.items()}
    names, labels = [row.name for row in rows], [row.label for row in rows]
    file.append(_with_gaps(rows, columns), names, labels, len(errors))
