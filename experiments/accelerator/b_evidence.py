"""B: what does each of the paper's ideas add, on images that the device holds, and
each recipe of later years?

Runs `experiments/ablations/imagenette.py` on a prepared Imagenette (`--data`), row by
row; results are lines of OUT/imagenette.jsonl and OUT/modern.jsonl, and what stands
there is not trained again. `--dry` runs it in small, on the quickstart's digits.
"""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

import pieces


# isort: split

from alexnet_jax.runtime import cli, progress

import experiment


SCRIPT = experiment.ROOT / "experiments" / "ablations" / "imagenette.py"


def main() -> None:
    """The part."""
    parser = experiment.parser(
        __doc__, runs=False, data="PREPARED", quick="the same as --dry"
    )
    add = parser.add_argument
    add("--dry", action="store_true", help="all of it in small")
    add("--seconds", type=float, help="after these no run starts")
    add("--plan", action="store_true", help="only say that it takes 16 minutes")
    given = parser.parse_args()
    if given.plan:
        progress.say(f"b: 16 minutes; what is measured stands in {given.output}")
        return
    if given.dry or given.quick:
        # Rows differ in the network alone.
        what = ["--quick", "--rows=code2012"]
    elif given.data is None:
        parser.error("give --data=PREPARED, or --dry")
    else:
        what = [f"--data={given.data}"]
    if given.seconds is not None:
        what.append(f"--minutes={given.seconds / 60}")
    progress.print_result(pieces.last_line(SCRIPT, f"--output={given.output}", *what))


if __name__ == "__main__":
    cli.run_command(main)
