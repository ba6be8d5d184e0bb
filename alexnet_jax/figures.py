"""Draw a run: curves, kernels, predictions, confusions, and a page with all of them.

    python -m alexnet_jax.figures --workdir=run
    python -m alexnet_jax.figures --workdir=run --workdir=run2

One run gets `figures/*.png` and `report.html` in its work directory; several are
compared, in `comparison.html` of the first. Needs the extra `figures`.

Of one run the page also shows, where they are asked for, the best validation images of
a layer's units (--best), a map of the validation images (--map) and what `explain`
draws of an image (--explain). --animation draws the first layer's kernels at every
checkpoint; `--config.train.save_steps=N --config.checkpoint.keep_every=N` of a training
keeps more of them.
"""

from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.reporting import report
from alexnet_jax.runs import pretrained
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.cli import Parser, run_command
from alexnet_jax.runtime.errors import InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser("figures", description=__doc__)
    parser.add_workdirs("to compare several")
    parser.add_argument(
        "--data_path",
        type=Path,
        metavar="PATH",
        help="where the data lie (default: as in the run)",
    )
    add = parser.add_argument
    add("--best", metavar="LAYER", help="the best images of its units, as conv5")
    add("--map", action="store_true", help="validation images by likeness")
    add(
        "--explain",
        type=Path,
        action="append",
        default=[],
        metavar="IMAGE",
        help="why it gets its class; give it again for more",
    )
    add(
        "--animation",
        type=Path,
        metavar="FILE",
        help=".gif, .png or .webp of the kernels over the run",
    )
    given = parser.parse_args(arguments)
    wanted = {
        "best": given.best,
        "with_map": given.map,
        "explain": given.explain,
        "animation": given.animation,
    }
    workdirs = [*map(pretrained.found, given.workdir)]
    if len(workdirs) == 1:
        path = report.write_report(workdirs[0], given.data_path, **wanted)
    elif any(wanted.values()) or given.data_path is not None:
        raise InputError(
            "--best, --map, --explain, --animation and --data_path are for one run; "
            "give one --workdir"
        )
    else:
        path = report.write_comparison(workdirs)
    result = {"report": str(path)}
    if given.animation is not None:
        result["animation"] = str(given.animation)
    progress.print_result(result)


if __name__ == "__main__":
    run_command(main)
