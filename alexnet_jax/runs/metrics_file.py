"""A run's metrics.jsonl as arrays to be drawn."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alexnet_jax.runs.metric_writer import METRICS_FILE
from alexnet_jax.runtime.errors import InputError


SPLITS = ("train", "validation")
# As many as can be told apart in a chart.
POINTS = 400

Series = Float[np.ndarray, " lines"]


class Curves(NamedTuple):
    """A run's numbers, by split and name: `step`, `epoch`, `loss` and so on."""

    name: str
    splits: dict[str, dict[str, Series]]

    def last(self, split: str, name: str) -> float | None:
        """The last value of a series, if it has any."""
        values = self.splits[split].get(name)
        return float(values[-1]) if values is not None and len(values) else None

    def best(self) -> dict[str, float] | None:
        """The line of the best validation; of equals the latest, as of checkpoints."""
        told = self.splits["validation"]
        if not told:
            return None
        place = len(told["step"]) - 1 - int(np.argmin(told["top1_error"][::-1]))
        return {name: float(values[place]) for name, values in told.items()}

    def rate_drops(self) -> list[float]:
        """The epochs at which the learning rate went down."""
        told = self.splits["train"]
        if not told:
            return []
        fell = np.flatnonzero(np.diff(told["learning_rate"]) < 0) + 1
        # A schedule that falls at every step has no drops to mark.
        return told["epoch"][fell].tolist() if len(fell) <= 20 else []


def read_curves(workdir: Path) -> Curves:
    """The metrics of a run.

    Raises:
      InputError: if there are none yet, or a line before the last is damaged.
    """
    path = workdir / METRICS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read ({error})") from error
    rows: dict[str, list[dict[str, float]]] = {split: [] for split in SPLITS}
    for number, text in enumerate(lines, start=1):
        try:
            row = json.loads(text)
            told = rows[row.pop("split")]
            # The same names in every line of a split.
            told.append({name: float(row[name]) for name in (told or [row])[0]})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                # A run that goes on may be writing it.
                break
            raise InputError(f"{path}, line {number}, is damaged ({error})") from error
    if not rows["train"]:
        raise InputError(f"{path} has no training step yet")
    return Curves(
        workdir.resolve().name,
        {
            split: {
                name: np.asarray([row[name] for row in told], np.float64)
                for name in (told[0] if told else {})
            }
            for split, told in rows.items()
        },
    )


def thinned(
    x: Series, y: Series, points: int = POINTS
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Means over equal stretches, where there are more values than can be seen."""
    if len(x) <= points:
        return x, y
    edges = np.linspace(0, len(x), points + 1).astype(int)
    counts = np.diff(edges)
    return (
        np.add.reduceat(x, edges[:-1]) / counts,
        np.add.reduceat(y, edges[:-1]) / counts,
    )
