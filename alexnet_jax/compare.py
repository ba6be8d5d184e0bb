"""Compare layers by what they find alike: dissimilarities of images, and CKA.

    python -m alexnet_jax.compare --features=run.zarr --output=rdm.npy

    python -m alexnet_jax.compare --features=run.h5 --features=other.h5 \\
        --layer=conv5,fc7 --distance=euclidean --output=rdm.h5

Reads what `features` writes: .zarr, .h5 or .npy; also any .npy of floating point with a
row for each image, such as recordings of a brain. Writes a representational
dissimilarity matrix (RDM) for each layer, as SciPy's `pdist` has it, and the debiased
linear CKA of every two layers, of one file or across two. Images with values that are
not finite are named and left out. Memory does not grow with the number of images.

A .npy output is an array of layers x images x images; .json beside it has the layers'
names and CKA, .csv the images' names and labels. A .h5 output (the extra `features`)
has a dataset for each layer in the group `rdm`, and `cka`, `name` and `label`. A figure
of the same name is drawn where Matplotlib is (the extra `figures`). For rsatoolbox:

    import csv, json, numpy as np, rsatoolbox
    layers = {"layer": json.load(open("rdm.json"))["layers"]}
    names = {"name": [row["name"] for row in csv.DictReader(open("rdm.csv"))]}
    rdms = rsatoolbox.rdm.RDMs(
        np.load("rdm.npy"), rdm_descriptors=layers, pattern_descriptors=names
    )
"""

from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.analysis.similarity import DISTANCES
from alexnet_jax.runtime import optional, paths, progress
from alexnet_jax.runtime.cli import Parser, run_command
from alexnet_jax.runtime.errors import InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser("compare", description=__doc__)
    add = parser.add_argument
    add(
        "--features",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="of `features`; give it again for a second file of the same images",
    )
    add("--layer", metavar="NAME[,NAME]", help="layers of each file (default: all)")
    add(
        "--distance",
        choices=DISTANCES,
        default=DISTANCES[0],
        help=f"of two images (default: {DISTANCES[0]})",
    )
    add("--output", type=Path, required=True, metavar="FILE", help=".npy or .h5")
    given = parser.parse_args(arguments)
    if len(given.features) > 2:
        raise InputError("--features can be given twice; compare two files at a time")
    from alexnet_jax.analysis.comparison import check_output, compare

    check_output(given.output)
    draws = optional.is_installed("matplotlib")
    figure = given.output.with_suffix(".png") if draws else None
    if figure is not None:
        paths.check_output(figure, [".png"])
    found = compare(
        given.features,
        given.output,
        layers=None if given.layer is None else given.layer.split(","),
        distance=given.distance,
    )
    if figure is not None:
        from alexnet_jax.reporting import comparison_sheet

        comparison_sheet.write(found, figure)
    else:
        progress.say(f"no figure is drawn; `{optional.install('matplotlib')}`")
    progress.print_result(
        {
            "output": str(given.output),
            "figure": None if figure is None else str(figure),
            "images": len(found.names),
            **found.about(),
        }
    )


if __name__ == "__main__":
    run_command(main)
