"""Shared by the parts: a part is a list of pieces, each measured once and kept.

The parts that compare processes touch no device themselves, since JAX would take most
of its memory: `last_line` runs a script, and gives what it prints last.
"""

import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import Failure, Interrupted

import harness


HERE = Path(__file__).parent
# What a script prints for `device`.
DEVICE = "import jax; print(jax.devices()[0].device_kind)"


class Piece(NamedTuple):
    """Something to measure: what it is called, and how it is done."""

    name: dict[str, object]
    measure: Callable[[], object]


def run(
    part: str,
    document: str | None,
    pieces_of: Callable[[bool, Path], Sequence[Piece]],
    *packages: str,
) -> None:
    """Measure a part's pieces, those that OUT/PART.jsonl does not have yet.

    A piece that fails costs the part its exit status, not the other pieces.

    Args:
      part: its name.
      document: of its script.
      pieces_of: gives the pieces, from whether they are measured in small, and OUT.
      packages: whose versions are kept, beside JAX's.
    """
    parser = experiment.parser(document, runs=False, quick="the same as --dry")
    parser.add_argument("--dry", action="store_true", help="all of it in small")
    given = parser.parse_args()
    dry, path = given.dry or given.quick, given.output / f"{part}.jsonl"
    pieces, failed = pieces_of(dry, given.output), 0
    device = last_line("-c", DEVICE)
    known = {"device": device, "dry": dry}
    for piece in pieces:
        line = {**piece.name, **known}
        if any(line.items() <= old.items() for old in experiment.kept(path)):
            continue
        what = " ".join(map(str, piece.name.values()))
        try:
            line["result"] = piece.measure()
        except Interrupted:
            raise
        except Exception:
            # Compilers raise what they like.
            traceback.print_exc()
            progress.say(f"{part} {what}: failed")
            failed += 1
            continue
        line |= harness.machine("jax", *packages)
        experiment.keep(path, line, *piece.name, "dry")
        progress.say(f"{part} {what}: done")
    progress.print_result({"part": part, "results": str(path), "pieces": len(pieces)})
    if failed:
        raise Failure(f"{part}: {failed} of {len(pieces)} pieces failed")


def last_line(*arguments: str | Path) -> Any:
    """What a Python program prints last, as JSON or text.

    Raises:
      Failure: if it fails; it has printed why.
    """
    program = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        program, cwd=experiment.ROOT, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise Failure(f"{' '.join(program)[:200]} ended with {done.returncode}")
    line = done.stdout.splitlines()[-1]
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return line
