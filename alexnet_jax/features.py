"""Write any layer's features of many images to a file.

    python -m alexnet_jax.features --workdir=run --input=images \\
        --layer=fc7,conv5 --output=features.zarr

The output is a Zarr group (the extra `features`) with an array for each layer, and
`name` and `label` beside them; or, where its name ends in .npy, one layer as a NumPy
array and a .csv of names and labels. Labels and class names are those of the input's
own folders, whatever the run was trained on. The class names, the run, its checkpoint
and what is done to images are the attributes of the Zarr group, or a .json beside the
.npy.

`conv5` is a layer after its non-linearity, `conv5.linear` before it, `norm1` after
normalisation, `pool5` after pooling. In the last axis towers stand side by side, tower
0 first. Rows are written as they are computed, so memory does not grow with the number
of images, and the same command continues where it was stopped.

With --top=9 the output is the nine best images of each unit of one layer instead: each
one's value, the place in the layer, and the box that the unit sees there, in pixels of
the stored image; an NPZ file, and a sheet of the same name that shows them.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.inference.extraction import BATCH_SIZE, write_features
from alexnet_jax.inference.extraction_input import SPLITS
from alexnet_jax.runtime import paths, progress
from alexnet_jax.runtime.cli import Parser, run_command
from alexnet_jax.runtime.errors import Failure, InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser("features", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, metavar="DIR", help="of a run")
    add(
        "--input",
        type=Path,
        metavar="FOLDER",
        help="images at any depth, or a prepared data set; or what --source opens",
    )
    add(
        "--source",
        metavar="NAME",
        help="of another data set, as in --config.data.source: imagenet, parquet, ..., "
        "or MODULE:FUNCTION (default: see --input)",
    )
    add("--layer", required=True, metavar="NAME[,NAME]", help="as conv5, fc7.linear")
    add(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=".zarr, or .npy for one layer",
    )
    add(
        "--split",
        default="all",
        choices=("all", *SPLITS),
        help="of a data set (default: all, training first)",
    )
    parser.add_checkpoint()
    parser.add_dtype()
    add("--batch_size", type=int, default=BATCH_SIZE, metavar="N")
    add("--top", type=int, metavar="N", help="find the best images of each unit")
    add("--units", metavar="N[,N-N]", help="with --top: which (default: all)")
    given = parser.parse_args(arguments)
    if given.top is not None:
        _write_best(given)
        return
    if given.units is not None:
        raise InputError("--units is for --top; give --top=9 as well")
    refused = write_features(
        given.workdir,
        given.input,
        given.layer.split(","),
        given.output,
        source=given.source,
        split=given.split,
        checkpoint=given.checkpoint,
        dtype=given.dtype,
        batch_size=given.batch_size,
    )
    if refused:
        raise Failure(f"{refused} of the images can't be read; their rows are NaN")


def _write_best(given: Namespace) -> None:
    """The best images of each unit."""
    from alexnet_jax.analysis.array_file import write_arrays
    from alexnet_jax.analysis.best_images import best_images
    from alexnet_jax.reporting import best_sheet

    output, sheet = given.output, given.output.with_suffix(".png")
    paths.check_output(output, [".npz"])
    paths.check_output(sheet, [".png"])
    best = best_images(
        given.workdir,
        given.input,
        given.layer,
        given.top,
        units=given.units,
        source=given.source,
        split=given.split,
        checkpoint=given.checkpoint,
        dtype=given.dtype,
        batch_size=given.batch_size,
    )
    write_arrays(output, best.arrays())
    best_sheet.write(best, sheet)
    progress.print_result({"output": str(output), "sheet": str(sheet), **best.about()})
    if best.refused:
        raise Failure(f"{best.refused} of the images can't be read; they are left out")


if __name__ == "__main__":
    run_command(main)
