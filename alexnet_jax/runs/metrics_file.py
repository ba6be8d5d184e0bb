"""Reading metrics.jsonl: as arrays, its last validation, cutting it back."""

import json
from array import array
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from alexnet_jax.runtime import atomic
from alexnet_jax.runtime.errors import InputError, first_line
from alexnet_jax.training.spikes import LOSS_SPIKE


METRICS_FILE = "metrics.jsonl"
# Fields of a line that read a clock, and so differ between two runs of one seed.
CLOCK_FIELDS = ("images_per_second", "input_wait_fraction")
SPLITS = ("train", "validation")
# Of as many classes or fewer, the five best are all: no top-5 error is shown.
CLASSES_WITHOUT_TOP5 = 5
# More could not be distinguished in a chart.
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
        lines = self.splits["validation"]
        if not lines:
            return None
        place = len(lines["step"]) - 1 - int(np.argmin(lines["top1_error"][::-1]))
        return {name: float(values[place]) for name, values in lines.items()}

    def rate_drops(self) -> list[float]:
        """The epochs at which the learning rate went down."""
        lines = self.splits["train"]
        if not lines:
            return []
        fell = np.flatnonzero(np.diff(lines["learning_rate"]) < 0) + 1
        # A schedule that falls at every step has no drops to mark.
        return lines["epoch"][fell].tolist() if len(fell) <= 20 else []


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
            of_split = rows[row.pop("split")]
            # Of few lines: `read_spikes` has it.
            row.pop(LOSS_SPIKE, None)
            # The same names in every line of a split.
            of_split.append({name: float(row[name]) for name in (of_split or [row])[0]})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                # A running training may be writing it.
                break
            raise InputError(f"{path}, line {number}, is damaged ({error})") from error
    if not rows["train"]:
        raise InputError(f"{path} has no training step yet")
    return Curves(
        workdir.resolve().name,
        {
            split: {
                name: np.asarray([row[name] for row in of_split], np.float64)
                for name in (of_split[0] if of_split else {})
            }
            for split, of_split in rows.items()
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


class Spike(NamedTuple):
    """A step whose loss was so many times the median of those before it."""

    step: int
    loss: float
    factor: float


def read_spikes(workdir: Path) -> list[Spike]:
    """The loss spikes that a run has noted."""
    path = workdir / METRICS_FILE
    found = []
    for text in path.read_text().splitlines() if path.exists() else []:
        if LOSS_SPIKE in text:
            # A last line that is being written is none yet.
            with suppress(ValueError, KeyError, TypeError):
                row = json.loads(text)
                found.append(Spike(row["step"], row["loss"], float(row[LOSS_SPIKE])))
    return found


def last_validation(workdir: Path) -> dict[str, float]:
    """Loss and errors of a run's last validation; empty where there is none."""
    path = workdir / METRICS_FILE
    for text in reversed(path.read_text().splitlines() if path.exists() else []):
        line = json.loads(text)
        if line["split"] == "validation":
            return {name: line[name] for name in ("loss", "top1_error", "top5_error")}
    return {}


class Kept(NamedTuple):
    """What metrics.jsonl has of a run's training steps when it is continued.

    Attributes:
      losses: of every step.
      rates: images a second of every step.
      lost_rates: those of the steps that were cut off.
    """

    losses: "array[float]"
    rates: "array[float]"
    lost_rates: "array[float]"

    @classmethod
    def nothing(cls) -> "Kept":
        """Of a run that begins."""
        return cls(array("d"), array("d"), array("d"))


def cut_metrics(path: Path, step: int, *, keep_validation: bool = True) -> Kept:
    """Cut metrics.jsonl back to a step, and off a line that was not finished.

    Args:
      path: the file; nothing happens where there is none.
      step: the last step whose lines stay.
      keep_validation: whether that step's validation stays too.

    Returns:
      What it has of the training steps.

    Raises:
      InputError: if a line before the last is damaged.
    """
    found = Kept.nothing()
    if not path.exists():
        return found
    kept = []
    lines = path.read_bytes().splitlines()
    for number, data in enumerate(lines, start=1):
        try:
            text = data.decode()
            line = json.loads(text)
            later = line["step"] > step
            repeated = line["step"] == step and line["split"] == "validation"
            if line["split"] == "train" and "images_per_second" in line:
                rate, loss = float(line["images_per_second"]), float(line["loss"])
                (found.lost_rates if later else found.rates).append(rate)
                if not later:
                    found.losses.append(loss)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines):
                # The process that wrote it was killed.
                break
            raise InputError(
                f"{path}, line {number}, is damaged ({first_line(error)[:160]}); fix "
                "it, or move the file away"
            ) from error
        if not later and (keep_validation or not repeated):
            kept.append(text + "\n")
    atomic.replace(path, "".join(kept))
    return found
