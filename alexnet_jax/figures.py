"""Draw a run: curves, kernels, predictions, confusions, and a page with all of them.

    python -m alexnet_jax.figures --workdir=run
    python -m alexnet_jax.figures --workdir=run --workdir=run2

One run gets `figures/*.png` and `report.html` in its work directory; several are
compared, in `comparison.html` of the first. Needs the extra `figures`.
"""

from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.reporting import report
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.cli import Parser, run_command


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
    given = parser.parse_args(arguments)
    if len(given.workdir) == 1:
        path = report.write_report(given.workdir[0], given.data_path)
    else:
        path = report.write_comparison(given.workdir)
    progress.print_result({"report": str(path)})


if __name__ == "__main__":
    run_command(main)
