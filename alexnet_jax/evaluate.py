"""Measure the errors of a run, or of several as an ensemble."""

from alexnet_jax.runtime import cli, hugepages


if __name__ == "__main__":
    # Before the imports that take long, since it restarts the process.
    hugepages.use()

from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.inference import evaluations
from alexnet_jax.inference.ensemble import evaluate
from alexnet_jax.runs import pretrained
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.cli import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(
        "evaluate",
        description="Measure the errors of a run, or of several as an ensemble. The\n"
        "last line of standard output is one JSON object. It is also kept, with time,\n"
        "command and versions, in evaluation.jsonl of the first work directory.",
    )
    add = parser.add_argument
    parser.add_workdirs("for each member of an ensemble")
    parser.add_views()
    parser.add_checkpoint()
    parser.add_dtype()
    add("--split", default="validation", choices=("train", "validation"))
    add(
        "--mesh",
        type=cli.mesh_shape,
        metavar="DATAxTOWER",
        help="devices along data and tower, as 1x2 (default: as in the run)",
    )
    add("--batch_size", type=int, metavar="N", help="images at a time")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read images; 0 for threads alone (default: as in the run)",
    )
    add(
        "--data_path",
        metavar="PATH",
        help="where the data are (default: as in the run)",
    )
    add(
        "--predictions",
        type=Path,
        metavar="FILE.npz",
        help="a new file for names, labels, logits and mean probabilities of every "
        "example",
    )
    given = vars(parser.parse_args(arguments))
    members = [*map(pretrained.found, given.pop("workdir"))]

    def keep(result: dict[str, object]) -> None:
        # First on standard output: what was measured must not hang on a disk.
        progress.print_result(result)
        evaluations.keep(members[0], result)

    evaluate(members, **given, done=keep)


if __name__ == "__main__":
    cli.run_command(main)
