"""The images, and the places in them, at which each unit of a layer is strongest."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from alexnet_jax.analysis.best_so_far import MOST_DRAWN, BestImages, BestSoFar
from alexnet_jax.inference.extraction_input import Row, input_of
from alexnet_jax.inference.image_batches import over_images
from alexnet_jax.inference.layer_names import resolve
from alexnet_jax.inference.trained import TrainedNetwork, open_trained
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError, check_number
from alexnet_jax.training.step import Batch


def best_images(
    workdir: Path,
    given: Path | None,
    layer: str,
    top: int,
    *,
    units: str | None = None,
    source: str | None = None,
    split: str = "all",
    files: Path | None = None,
    checkpoint: str | int = "best",
    dtype: str | None = None,
    batch_size: int = 64,
) -> BestImages:
    """Find each unit's strongest images, in one pass that keeps these alone.

    Args:
      workdir: of a run.
      given, source, split, files: as in `extraction.write_features`.
      layer: by any of its names.
      top: how many images of each unit.
      units: which, as `0,7,32-63`; None for all.
      checkpoint: `best`, `latest` or a step.
      dtype: type of the computation; None for the run's own.
      batch_size: images at a time.

    Raises:
      InputError: if something isn't there, or a layer or unit is unknown.
    """
    check_number("--top", top, least=1, whole=True)
    check_number("--batch_size", batch_size, least=1, whole=True)
    network = open_trained(workdir, checkpoint, dtype)
    layer = layer_of(network, layer)
    images = input_of(network, given, split, source, files)
    best = strongest(
        network,
        images.rows(0),
        images.total,
        layer,
        top,
        units=units,
        batch_size=batch_size,
    )
    if len(best.units) > MOST_DRAWN:
        progress.say(
            f"the sheet shows the first {MOST_DRAWN} of {len(best.units):,} units; "
            "--units names others"
        )
    return best


def layer_of(network: TrainedNetwork, asked: str) -> str:
    """The layer of a network that was asked for by any of its names.

    Raises:
      InputError: if there is no such layer, or it is more than one.
    """
    layers = resolve(network.model, asked.split(","))
    if len(layers) > 1:
        raise InputError(
            f"best images are of one layer, and {asked!r} is {len(layers)}; leave the "
            "others out"
        )
    return layers[0]


def strongest(
    network: TrainedNetwork,
    rows: Iterable[Row],
    total: int,
    layer: str,
    top: int,
    *,
    units: str | None = None,
    batch_size: int = 64,
) -> BestImages:
    """The best images among rows, `total` of them; see `best_images`."""
    mesh = network.all_devices()
    found = BestSoFar(network, layer, _shape_of(network, layer), units, top)
    found.best.count = total
    extract = network.extractor(mesh, [layer])

    def run(batch: Batch) -> dict[str, Array]:
        return _strongest(extract(batch)[layer], found.best.units)

    with progress.counted("images", total) as advance:
        for group, values in over_images(
            run,
            rows,
            lambda row: row.image,
            size=network.data.size,
            batch_size=min(batch_size, total),
            mesh=mesh,
        ):
            found.add(group, values["value"], values["place"])
            advance(len(group))
    return found.best


@jax.jit
def _strongest(values: Array, units: Array | np.ndarray) -> dict[str, Array]:
    """Each image's largest value of each unit, and its place, counted row by row."""
    flat = values.reshape(values.shape[0], -1, values.shape[-1])[..., units]
    return {"value": flat.max(axis=1), "place": flat.argmax(axis=1)}


def _shape_of(network: TrainedNetwork, layer: str) -> tuple[int, ...]:
    """The shape of a layer of one image, computed without running the network."""
    crop = network.data.crop
    blank = jax.ShapeDtypeStruct((1, crop, crop, 3), np.float32)
    apply = functools.partial(network.model.apply, layers=layer)
    outputs: Any = jax.eval_shape(apply, {"params": network.plain_params}, blank)
    return outputs[1][layer].shape


def width_of(network: TrainedNetwork, layer: str) -> int:
    """How many units a layer has, over all towers."""
    return _shape_of(network, layer)[-1]
