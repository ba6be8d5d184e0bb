"""Shared by the parts: a part is a list of pieces, each measured once and kept.

The parts that compare processes touch no device themselves, since JAX would take most
of its memory: `last_line` runs a script, and gives what it prints last.
"""

import json
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import Failure, Interrupted

import commands
import harness


HERE = Path(__file__).parent
# What a script prints for `device`.
DEVICE = "import jax; print(jax.devices()[0].device_kind)"


class Piece(NamedTuple):
    """Something to measure: what it is called, how it is done, and the seconds it may
    take on an H100."""

    name: Mapping[str, object]
    measure: Callable[[], object]
    seconds: float

    def __str__(self) -> str:
        return " ".join(map(str, self.name.values()))


def run(
    part: str,
    document: str | None,
    pieces_of: Callable[[bool, Path], Sequence[Piece]],
    *packages: str,
) -> None:
    """Measure a part's pieces, those that OUT/PART.jsonl does not have yet.

    A piece that fails costs the part its exit status, not the other pieces. One that
    would take longer than the time left is not started.

    Args:
      part: its name.
      document: of its script.
      pieces_of: gives the pieces, from whether they are measured in small, and where
        they may leave runs: another folder for each device, and for each commit where
        it is known, so that none is taken for another's.
      packages: whose versions are kept, beside JAX's.
    """
    begin = time.monotonic()
    parser = experiment.parser(document, runs=False, quick="the same as --dry")
    add = parser.add_argument
    add("--dry", action="store_true", help="all of it in small")
    add("--seconds", type=float, default=math.inf, help="start nothing longer")
    add("--plan", action="store_true", help="only say what is not measured yet")
    given = parser.parse_args()
    dry, path = given.dry or given.quick, given.output / f"{part}.jsonl"
    known = {"device": last_line("-c", DEVICE), "dry": dry}
    old = experiment.kept(path)

    def is_open(piece: Piece) -> bool:
        line = {**piece.name, **known}
        return not any(line.items() <= other.items() for other in old)

    made_by = harness.machine("jax", *packages)
    of = [*(["dry"] if dry else []), known["device"], made_by["commit"]]
    work = given.output / "-".join(filter(None, of)).replace(" ", "_")
    pieces = [piece for piece in pieces_of(dry, work) if is_open(piece)]
    late, failed = [], 0
    for piece in pieces:
        left = given.seconds - (time.monotonic() - begin)
        if given.plan or piece.seconds > left:
            late.append(piece)
            continue
        line = {**piece.name, **known}
        try:
            line["result"] = piece.measure()
        except Interrupted:
            raise
        except (Exception, SystemExit):
            # Compilers raise what they like, and a command that fails exits.
            traceback.print_exc()
            progress.say(f"{part} {piece}: failed")
            failed += 1
            continue
        line |= made_by
        experiment.keep(path, line, *piece.name, *known)
        progress.say(f"{part} {piece}: done")
    for piece in late:
        progress.say(f"{part} {piece}: not measured yet, {piece.seconds:.0f} s")
    progress.print_result(
        {
            "part": part,
            "results": str(path),
            "measured": len(pieces) - len(late) - failed,
            "left": len(late),
            "minutes_left": round(sum(piece.seconds for piece in late) / 60, 1),
        }
    )
    if failed:
        raise Failure(f"{part}: {failed} of {len(pieces)} pieces failed")


def last_line(*arguments: str | Path) -> Any:
    """What a Python program prints last, as JSON or text.

    Raises:
      Failure: if it fails; it has printed why.
    """
    if commands.in_this_process:
        output = commands.printed_by(*map(str, arguments))
    else:
        program = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            program, cwd=experiment.ROOT, stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            raise Failure(f"{' '.join(program)[:200]} ended with {done.returncode}")
        output = done.stdout
    line = output.splitlines()[-1]
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return line
