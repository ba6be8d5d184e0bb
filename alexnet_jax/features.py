"""Write any layer's features of many images to a file.

    python -m alexnet_jax.features --workdir=run --list

    python -m alexnet_jax.features --workdir=run --input=images \\
        --layer=fc7,conv5 --output=features.zarr

The output is a Zarr group or an HDF5 file (.zarr, .h5; the extra `features`) with an
array for each layer, and `name` and `label` beside them; or, where its name ends in
.npy, one layer as a NumPy array and a .csv of names and labels. Labels and class names
are those of the input's own folders, whatever the run was trained on. The class names,
the run, its checkpoint and what is done to images are attributes, or a .json beside the
.npy.

`conv5` is a layer after its non-linearity, `conv5.linear` before it, `norm1` after
normalisation, `pool5` after pooling; `all` is every one. Caffe's and torchvision's
names (`relu5`, `features.12`) and Brain-Score's regions (`V1`, `V2`, `V4`, `IT`) are
understood; --list shows them all. In the last axis towers stand side by side, tower 0
first.

Rows are written as they are computed, so memory does not grow with the number of
images, and the same command continues where it was stopped. --pool, --project and --pca
make rows shorter, in this order; the components of --pca are learned in a first pass
over the images, and lie in OUTPUT.pca.npz. --checkpoint=all writes each checkpoint's
features to its own file, NAME.STEP.zarr. The last line printed is JSON.

With --top=9 the output is the nine best images of each unit of one layer instead: each
one's value, the place in the layer, and the box that the unit sees there, in pixels of
the stored image; an NPZ file, and a sheet of the same name that shows them.
"""

from alexnet_jax.runtime import cli, hugepages


if __name__ == "__main__":
    # Before the imports that take long, since it restarts the process.
    hugepages.use()

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.inference.extraction import BATCH_SIZE, Written, write_features
from alexnet_jax.inference.extraction_input import SPLITS
from alexnet_jax.inference.layer_names import REGIONS_FROM, LayerSummary, summaries
from alexnet_jax.inference.reduction import POOLS
from alexnet_jax.inference.trained import open_untrained
from alexnet_jax.inference.trajectory import write_trajectory
from alexnet_jax.runs import pretrained
from alexnet_jax.runtime import paths, progress
from alexnet_jax.runtime.cli import Parser
from alexnet_jax.runtime.errors import Failure, InputError


# Options that mean nothing where the best images are looked for.
NOT_OF_TOP = ("untrained", "pool", "project", "pca")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    given = _parse(arguments)
    given.workdir = pretrained.found(given.workdir)
    if given.list:
        _list(given.workdir)
        return
    for flag in ("layer", "output"):
        if getattr(given, flag) is None:
            raise InputError(f"--{flag} is missing; see --help, and --list for layers")
    if given.untrained and given.checkpoint not in ("best", "all"):
        raise InputError(
            f"--untrained has no checkpoints; leave out --checkpoint={given.checkpoint}"
        )
    if given.top is not None:
        _write_best(given)
        return
    if given.units is not None:
        raise InputError("--units is for --top; give --top=9 as well")
    if given.checkpoint == "all":
        _write_all(given)
        return
    written = _write(given, given.checkpoint, given.output)
    progress.print_result(
        {"output": str(given.output), **_shown(written), "step": written.step}
    )
    _check(written.unreadable)


def _list(workdir: Path) -> None:
    """Print a network's layers, as a table and as JSON."""
    network = open_untrained(workdir, 0)
    found = summaries(network.model, network.data.crop)
    for row in [
        ("layer", "values", "sees", "stride", "also called"),
        *map(_row, found),
    ]:
        line = f"{row[0]:14}{row[1]:14}{row[2]:>8}{row[3]:>8}   {row[4]}"
        progress.show(line.rstrip())
    progress.say(f"{REGIONS_FROM}.")
    layers = [
        {
            "name": layer.name,
            "shape": layer.shape,
            "receptive_field": layer.receptive_field,
            "stride": layer.stride,
            "aliases": layer.aliases,
        }
        for layer in found
    ]
    progress.print_result({"workdir": str(workdir), "layers": layers})


def _row(layer: LayerSummary) -> tuple[str, ...]:
    whole = layer.receptive_field is None
    return (
        layer.name,
        " x ".join(map(str, layer.shape)),
        "all" if whole else f"{layer.receptive_field} px",
        "" if whole else f"{layer.stride} px",
        ", ".join(layer.aliases),
    )


def _write(given: Namespace, checkpoint: str | int, output: Path) -> Written:
    return write_features(
        given.workdir,
        given.input,
        given.layer.split(","),
        output,
        source=given.source,
        split=given.split,
        files=given.files,
        checkpoint=checkpoint,
        untrained=given.untrained,
        dtype=given.dtype,
        batch_size=given.batch_size,
        pool=given.pool,
        project=given.project,
        pca=given.pca,
        seed=given.seed,
    )


def _write_all(given: Namespace) -> None:
    """The features of every checkpoint."""
    if given.untrained:
        raise InputError("--untrained has no checkpoints; leave out --checkpoint=all")
    unreadable: list[int] = []

    def write(step: int, output: Path) -> Written:
        written = _write(given, step, output)
        unreadable.append(written.unreadable)
        return written

    job = {k: v if v is None else str(v) for k, v in sorted(vars(given).items())}
    outputs = write_trajectory(given.workdir, given.output, job, write)
    progress.print_result(
        {"outputs": {step: str(path) for step, path in outputs.items()}}
    )
    _check(max(unreadable, default=0))


def _shown(written: Written) -> dict[str, object]:
    return {
        "images": written.images,
        "unreadable": written.unreadable,
        "layers": written.layers,
    }


def _check(unreadable: int) -> None:
    if unreadable:
        raise Failure(f"{unreadable} of the images can't be read; their rows are NaN")


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = Parser("features", description=__doc__)
    add = parser.add_argument
    parser.add_workdir()
    add(
        "--list",
        action="store_true",
        help="show the layers: values, receptive fields, strides, names",
    )
    add(
        "--input",
        type=Path,
        metavar="PATH",
        help="images at any depth of a folder; a prepared data set; an array of images "
        "x height x width x 3 in a .npy or .h5 (.h5:DATASET), or MATLAB's height x "
        "width x 3 x images in a .mat (-v7.3); or what --source opens",
    )
    add(
        "--files",
        type=Path,
        metavar="LIST",
        help="a text file with the path of an image on each line, in this order; paths "
        "begin at --input, or where the list lies",
    )
    add(
        "--source",
        metavar="NAME",
        help="of another data set, as in --config.data.source: imagenet, parquet, ..., "
        "or MODULE:FUNCTION (default: see --input)",
    )
    add("--layer", metavar="NAME[,NAME]", help="as conv5, fc7.linear; or all")
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help=".zarr or .h5, or .npy for one layer",
    )
    add(
        "--split",
        default="all",
        choices=("all", *SPLITS),
        help="of a data set (default: all, training first); what has no validation "
        "split is split as in the run",
    )
    add(
        "--checkpoint",
        default="best",
        metavar="best|latest|STEP|all",
        help="which checkpoint, or each (default: the best by validation error)",
    )
    add(
        "--untrained",
        action="store_true",
        help="the network's initial parameters of --seed, in place of a checkpoint's",
    )
    add("--pool", choices=POOLS, help="keep this of each map")
    add(
        "--project",
        type=int,
        metavar="N",
        help="project rows at random (sparse, of --seed) to N values",
    )
    add("--pca", type=int, metavar="N", help="keep N principal components")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_dtype()
    add("--batch_size", type=int, default=BATCH_SIZE, metavar="N")
    add("--top", type=int, metavar="N", help="find the best images of each unit")
    add("--units", metavar="N[,N-N]", help="with --top: which (default: all)")
    return parser.parse_args(arguments)


def _write_best(given: Namespace) -> None:
    """The best images of each unit."""
    from alexnet_jax.analysis.array_file import write_arrays
    from alexnet_jax.analysis.best_images import best_images
    from alexnet_jax.reporting import best_sheet

    for flag in NOT_OF_TOP:
        if getattr(given, flag):
            raise InputError(f"--{flag} is not for --top; leave it out")
    if given.checkpoint == "all":
        raise InputError("--top takes one checkpoint; leave out --checkpoint=all")
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
        files=given.files,
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
    cli.run_command(main)
