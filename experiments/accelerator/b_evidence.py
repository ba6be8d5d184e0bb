"""B: what does each of the paper's ideas add, on images that the device holds, and
each recipe of later years?

Runs `experiments/ablations/imagenette.py` on a prepared Imagenette (`--data`), row by
row; results are lines of OUT/imagenette.jsonl and OUT/modern.jsonl, and what stands
there is not trained again. `--dry` runs it in small, on the quickstart's digits.
"""

import subprocess
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

import pieces  # noqa: F401


# isort: split

from alexnet_jax.runtime import cli

import experiment


SCRIPT = experiment.ROOT / "experiments" / "ablations" / "imagenette.py"


def main() -> None:
    """The part."""
    parser = experiment.parser(
        __doc__, runs=False, data="PREPARED", quick="the same as --dry"
    )
    parser.add_argument("--dry", action="store_true", help="all of it in small")
    given = parser.parse_args()
    if given.dry or given.quick:
        what = "--quick"
    elif given.data is None:
        parser.error("give --data=PREPARED, or --dry")
    else:
        what = f"--data={given.data}"
    command = [sys.executable, str(SCRIPT), f"--output={given.output}", what]
    sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    cli.run_command(main)
