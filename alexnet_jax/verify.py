"""Checks a prepared data set; `data/prepared/verification.py` does the work."""

from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.data.prepared.verification import verify
from alexnet_jax.runtime import cli, progress
from alexnet_jax.runtime.cli import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(
        "verify",
        description="Check a prepared data set: checksums, records and images. Every\n"
        "fault is named; the exit status is 1 where there is any.",
    )
    parser.add_argument(
        "--path", type=Path, required=True, metavar="DIR", help="the data set's folder"
    )
    parser.add_argument(
        "--workers", type=int, help="processes (default: one for each core)"
    )
    given = parser.parse_args(arguments)
    faults = verify(given.path, workers=given.workers)
    for fault in faults:
        progress.say(fault)
    progress.print_result({"path": str(given.path), "faults": len(faults)})
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    cli.run_command(main)
