"""What `evaluate` measured of a run, kept in its work directory."""

import json
from collections.abc import Mapping
from pathlib import Path

from alexnet_jax.runs.provenance import environment
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import first_line


EVALUATIONS_FILE = "evaluation.jsonl"


def keep(workdir: Path, result: Mapping[str, object]) -> None:
    """Append a result to `evaluation.jsonl`, a line of JSON with time, command and
    versions; where it can't be written, one line on standard error says so."""
    path = workdir / EVALUATIONS_FILE
    line = json.dumps({**result, "environment": environment()}) + "\n"
    try:
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, 2)
                # An earlier line that a full disk has cut off ends here.
                line = line if file.read() == b"\n" else f"\n{line}"
            file.write(line.encode())
    except OSError as error:
        reason = error.strerror or first_line(error)
        progress.say(f"warning: {path} can't be written ({reason}); not kept there")


def read_evaluations(workdir: Path) -> list[dict[str, object]]:
    """The results that `keep` wrote, oldest first; damaged lines are left out."""
    path = workdir / EVALUATIONS_FILE
    found = []
    for text in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            found.append(line)
    return found
