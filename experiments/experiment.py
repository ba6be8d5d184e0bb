"""Shared by the experiments: where modules are, arguments, training, raw results.

A script in a folder beside this file begins with

    sys.path.insert(0, str(Path(__file__).parents[1]))
    import experiment

and then finds the checkout's package and the benchmarks' harness.
"""

import json
import multiprocessing
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any


ROOT = Path(__file__).parents[1]
sys.path[1:1] = [
    str(ROOT),
    str(ROOT / "experiments" / "benchmarks"),
]

from alexnet_jax.runtime import hugepages


def _is_script() -> bool:
    """Whether an experiment is what was started: not a test of one, nor its worker."""
    started = getattr(sys.modules["__main__"], "__file__", None)
    return (
        started is not None
        and Path(started).resolve().is_relative_to((ROOT / "experiments").resolve())
        and multiprocessing.parent_process() is None
    )


if _is_script():
    # As the commands: before the script's other imports, which would run twice.
    hugepages.use()

# isort: split

from alexnet_jax.runs.metrics_file import METRICS_FILE
from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.cli import Parser
from alexnet_jax.runtime.errors import Diverged


if TYPE_CHECKING:
    from alexnet_jax.runs.setup import Setup


# The section `checkpoint` of runs that are resumed, and evaluated at their end alone.
LATEST_ONLY = {"keep_latest": 1, "keep_best": 0}
# What a result says of how it was made.
PROVENANCE = ("cores", "processor", "python", "versions", "commit", "time")


def parser(
    document: str | None, *, runs: bool = True, quick: str, data: str = ""
) -> Parser:
    """A parser with the options that experiments have in common.

    Args:
      document: the script's docstring.
      runs: whether it trains, and keeps its runs in a folder.
      quick: what `--quick` does.
      data: what `--data` is called, where it takes any.
    """
    made = Parser(description=document, prog=f"python {sys.argv[0]}")
    if data:
        made.add_argument(
            "--data", type=Path, metavar=data, help="needed without --quick"
        )
    if runs:
        made.add_argument("--runs", type=Path, required=True, metavar="FOLDER")
    made.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    made.add_argument("--quick", action="store_true", help=quick)
    return made


def fit(setup: "Setup", workdir: Path) -> dict[str, Any] | None:
    """Train from where the work directory stands; see `alexnet_jax.train.train`.

    Returns:
      The step reached and the last validation's loss and errors; None if the run
      diverged, which is a result here.
    """
    # Not above: experiments that run commands need no JAX.
    from alexnet_jax.train import train

    try:
        return train(setup, workdir)
    except Diverged as error:
        progress.say(str(error))
        return None


def metrics_of(workdir: Path, split: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl that are of one split."""
    lines = map(json.loads, (workdir / METRICS_FILE).read_text().splitlines())
    return [line for line in lines if line["split"] == split]


def keep(path: Path, line: dict[str, Any], *identity: str) -> list[dict[str, Any]]:
    """Put a result into a file of JSON lines, replacing an older one.

    If no measured value differs, the older line stays, with the hardware and commit
    of its measurement.

    Args:
      path: the file; it and its folder are created where missing.
      line: the result.
      identity: the keys that distinguish results; a missing key counts as None.

    Returns:
      All results of the file.
    """

    def name(result: dict[str, Any]) -> list[Any]:
        return [result.get(key) for key in identity]

    def measured(result: dict[str, Any]) -> dict[str, Any]:
        # As it comes back from the file, where tuples are lists.
        result = json.loads(json.dumps(result))
        return {key: result[key] for key in result if key not in PROVENANCE}

    path.parent.mkdir(parents=True, exist_ok=True)
    results = kept(path)
    places = [n for n, other in enumerate(results) if name(other) == name(line)]
    if places and measured(results[places[0]]) == measured(line):
        return results
    if places:
        results[places[0]] = line
    else:
        results.append(line)
    atomic.replace(path, "".join(json.dumps(result) + "\n" for result in results))
    return results


def kept(path: Path) -> list[dict[str, Any]]:
    """The results of a file of JSON lines; none where there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]
