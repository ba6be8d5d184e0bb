"""Dissimilarities of images and alignment of layers, from files to files."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from alexnet_jax.analysis import similarity
from alexnet_jax.analysis.comparison_file import (
    Comparison,
    TileWriter,
    check_output,
    open_output,
)
from alexnet_jax.analysis.feature_files import (
    Features,
    Layer,
    chosen_layers,
    images_of,
    open_features,
)
from alexnet_jax.analysis.similarity import Chosen, Tile
from alexnet_jax.runtime import paths, progress
from alexnet_jax.runtime.errors import InputError


# Images in a drawn matrix; more would not be seen.
DRAWN = 400


def compare(
    files: Sequence[Path],
    output: Path,
    *,
    layers: list[str] | None = None,
    distance: str = "correlation",
) -> Comparison:
    """Write the dissimilarity matrix of each layer, and compare layers with each other.

    Args:
      files: one or two files of features; two of the same images.
      output: a .npy or .h5 file that doesn't exist.
      layers: of the files; of a file that has none of them, as of recordings beside
        layers, all are taken. None for all of both.
      distance: out of `similarity.DISTANCES`.

    Raises:
      InputError: if a file or layer isn't there, images differ, or too few are whole.
    """
    check_output(output)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_features(path)) for path in files]
        images = images_of(opened)
        sides = chosen_layers(opened, layers)
        named = _named(files, sides)
        names, labels = images.names, images.labels
        keep = _whole(images, named)
        chosen = {name: Chosen(layer, keep) for name, layer in named.items()}
        sample = _sample([labels[place] for place in keep])
        drawn = np.full((len(chosen), len(sample), len(sample)), np.nan, np.float32)
        with open_output(output, tuple(chosen), len(keep)) as file:
            _write_matrices(chosen, distance, file.write, sample, drawn)
            cka = _align([*chosen.values()])
            shown, first = tuple(chosen), len(sides[0])
            second = first if len(sides) == 2 else 0
            found = Comparison(
                distance=distance,
                layers=shown,
                rows=shown[:first],
                columns=shown[second:],
                cka=cka[:first, second:],
                names=tuple(names[place] for place in keep),
                labels=tuple(labels[place] for place in keep),
                left_out=tuple(np.delete(np.asarray(names, object), keep)),
                sample=sample,
                drawn=drawn,
            )
            file.describe(found)
    return found


def _named(
    files: Sequence[Path], sides: Sequence[Mapping[str, Layer]]
) -> dict[str, Layer]:
    """Every layer, by its name; of two files with the file's name before it, and where
    those are equal with what tells them apart, without slashes: HDF5 has groups there.
    """
    if len(sides) == 1:
        return dict(sides[0])
    texts = [path.stem for path in files]
    if texts[0] == texts[1]:
        texts = [text.replace("/", "-") for text in paths.distinct_names(files)]
    return {
        f"{text}:{name}": layer
        for text, side in zip(texts, sides, strict=True)
        for name, layer in side.items()
    }


def _whole(features: Features, layers: Mapping[str, Layer]) -> np.ndarray:
    """The images whose values are finite in every layer; the others are named."""
    whole = np.ones(len(features.names), bool)
    for layer in layers.values():
        whole &= similarity.finite(layer)
    for place in np.flatnonzero(~whole):
        progress.say(
            f"left out: {features.names[place]} has values that are not finite"
        )
    keep = np.flatnonzero(whole)
    if len(keep) < similarity.FEWEST_ROWS:
        raise InputError(
            f"{features.path} has {progress.counting(len(keep), 'image')} with finite "
            f"values; comparing takes at least {similarity.FEWEST_ROWS}"
        )
    return keep


def _sample(labels: Sequence[int]) -> np.ndarray:
    """Images to draw: evenly chosen among those sorted by label."""
    order = np.argsort(labels, kind="stable")
    count = min(len(order), DRAWN)
    return order[np.linspace(0, len(order) - 1, count).astype(int)]


def _write_matrices(
    chosen: Mapping[str, Chosen],
    distance: str,
    write: TileWriter,
    sample: np.ndarray,
    drawn: np.ndarray,
) -> None:
    """Write each layer's matrix, and keep the sample's part."""
    count = len(next(iter(chosen.values())).places)
    for number, (name, rows) in enumerate(chosen.items()):
        side = similarity.tile_side([rows.shape[1]])
        blind = np.zeros(count, bool)
        with progress.counted(name, similarity.tile_count(count, side)) as advance:
            for tile in similarity.dissimilarities(rows, distance, side):
                write(number, tile)
                _keep(drawn[number], sample, tile)
                if tile.rows == tile.columns:
                    blind[tile.rows] = np.isnan(tile.values.diagonal())
                advance(1)
        if blind.any():
            progress.say(
                f"{name}: {progress.counting(int(blind.sum()), 'image')} of {count:,} "
                "have equal values throughout, and so no "
                f"{distance}; their dissimilarities are NaN"
            )


def _keep(drawn: np.ndarray, sample: np.ndarray, tile: Tile) -> None:
    """Copy what a tile has of the sample's images."""
    places = [
        np.flatnonzero((sample >= part.start) & (sample < part.stop))
        for part in (tile.rows, tile.columns)
    ]
    inside = np.ix_(
        sample[places[0]] - tile.rows.start, sample[places[1]] - tile.columns.start
    )
    drawn[np.ix_(*places)] = tile.values[inside]
    drawn[np.ix_(*places[::-1])] = tile.values[inside].T


def _align(layers: Sequence[Chosen]) -> np.ndarray:
    """The CKA of every two layers."""
    if len(layers) == 1:
        # A layer is like itself, which would take as long as its matrix to compute.
        return np.ones((1, 1))
    side = similarity.tile_side([rows.shape[1] for rows in layers])
    count = similarity.tile_count(len(layers[0].places), side)
    with progress.counted("layers compared", count) as advance:
        return similarity.linear_cka(layers, side, advance)
