"""What do durable saves and a mirror cost the training step?

The training loop of the package, on digits in memory and a network whose state is
about a twentieth of the full network's 490 MB (`state_mb`), for `--seconds` a round and
side, with one save after a quarter of them: as if the full one were saved every twenty
times as long, five minutes. In turn:

  plain    a save that waits for no disk (`os.fsync` does nothing), and no mirror
  durable  the saves of a run, and a mirror in another folder
  slow     the same, where every `os.fsync` takes five seconds longer

`ratio` is the step's rate in `durable` over that in `plain`, round by round, and
`ratio_slow` that in `slow`. A save syncs some 35 times (`fsyncs` counts two saves and a
start), so one of `slow` would take three minutes, and the next must come later than
that; what is left of it is cut short when the last step has begun.

    python experiments/reliability/saving.py --output=experiments/reliability

`--quick` is one round of a tiny network.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import jax

from alexnet_jax import load_config, train
from alexnet_jax.runs.metrics_file import METRICS_FILE
from alexnet_jax.runs.setup import Setup, build_setup
from alexnet_jax.runtime.store import Store
from alexnet_jax.training.plan import Plan

import harness


SLOW = 5.0
# Of the first steps: one is compiled, and threads start.
STEPS_LEFT_OUT = 5
STEPS_TO_TRY = 40
SIDES = ("plain", "durable", "slow")
# What makes the network of the quickstart smaller.
Rows = dict[str, dict[str, int]]
ROWS = {"fc6": {"width": 384}, "fc7": {"width": 384}}
# Of a validation that nobody asked for.
ERRORS = {"loss": 1.0, "top1_error": 0.5, "top5_error": 0.5}


class OneSave(Plan):
    """A plan with a single save, and one at its end, where alone it validates."""

    def validates(self, step: int) -> bool:
        """Whether a validation follows a step."""
        return step == self.steps

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows a step."""
        return step == self.steps // 4


class Disk:
    """Takes the place of `os.fsync`, and counts its calls."""

    def __init__(self) -> None:
        self.kind, self.calls = "durable", 0
        self._fsync = os.fsync
        self._over = threading.Event()

    def begin(self, kind: str) -> None:
        """From now on it is that of a side."""
        self.kind, self.calls = kind, 0
        self._over.clear()

    def end(self) -> None:
        """From now on it is fast; who waits for it goes on."""
        self._over.set()

    def fsync(self, descriptor: int) -> None:
        """As `os.fsync`."""
        self.calls += 1
        if self.kind == "plain":
            return
        self._fsync(descriptor)
        if self.kind == "slow":
            self._over.wait(SLOW)


class Sides:
    """The set-up that all sides train, each in a new work directory."""

    def __init__(self, folder: Path, seconds: float, rows: Rows) -> None:
        config = load_config("quickstart")
        config.data.validation_fraction = 0.9
        config.train.batch_size = 16
        config.model.layers.update(rows)
        self.folder, self.disk, self.runs = folder, Disk(), 0
        os.fsync = self.disk.fsync
        self.setup = build_setup(config)
        self.steps = STEPS_TO_TRY
        self.fsyncs: dict[str, int] = {}
        # Twice: the first one compiles.
        rates = [self.run("plain") for _ in range(2)]
        self.steps = max(STEPS_TO_TRY, round(seconds * rates[-1]))

    def run(self, kind: str) -> float:
        """The steps a second of a run."""
        self.runs += 1
        workdir = self.folder / f"{self.runs}"
        self.disk.begin(kind)
        train.train(self._of_run(kind), workdir)
        self.fsyncs[kind] = self.disk.calls
        lines = (workdir / METRICS_FILE).read_text().splitlines()
        steps = [line for line in map(json.loads, lines) if line["split"] == "train"]
        took = [1 / line["images_per_second"] for line in steps[STEPS_LEFT_OUT:]]
        shutil.rmtree(workdir)
        shutil.rmtree(self.folder / "mirror", ignore_errors=True)
        return len(took) / sum(took) / self.setup.plan.batch_size

    def _of_run(self, kind: str) -> Setup:
        plan = {**dataclasses.asdict(self.setup.plan), "steps": self.steps}
        begun = 0

        def counted(*given: Any) -> Any:
            nonlocal begun
            begun += 1
            if begun == self.steps:
                self.disk.end()
            return self.setup.steps.train(*given)

        mirror = None
        if kind != "plain":
            mirror = Store(f"file://{self.folder}/mirror", "--mirror")
        return dataclasses.replace(
            self.setup,
            plan=OneSave(**plan),
            steps=dataclasses.replace(self.setup.steps, train=counted),
            validate=lambda *_: ERRORS,
            mirror=mirror,
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seconds", type=float, default=15.0, help="of a round and side")
    add("--rounds", type=int, default=7)
    add("--quick", action="store_true", help="one round of a tiny network")
    add("--folder", type=Path, help="on the disk to measure (default: a temporary one)")
    add("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    if given.quick:
        given.seconds, given.rounds = 1.0, 1
    rows = harness.TINY_ROWS if given.quick else ROWS
    with tempfile.TemporaryDirectory(prefix="saving_", dir=given.folder) as folder:
        sides = Sides(Path(folder), given.seconds, rows)
        measured = harness.in_turn(
            {kind: lambda kind=kind: sides.run(kind) for kind in SIDES}, given.rounds
        )
    ratios = {kind: harness.ratio(measured, kind, "plain") for kind in SIDES[1:]}
    size = sum(a.nbytes for a in jax.tree.leaves(sides.setup.steps.initial()))
    result = {
        "benchmark": "saving",
        "unit": "steps per second",
        "steps": sides.steps,
        "state_mb": round(size / 1e6, 1),
        "fsyncs": sides.fsyncs,
        "medians": harness.medians(measured),
        "ratio": ratios["durable"]["median"],
        "ratio_slow": ratios["slow"]["median"],
        "ratios": ratios,
        "rounds": measured,
        **harness.machine("jax", "orbax-checkpoint", "fsspec"),
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
