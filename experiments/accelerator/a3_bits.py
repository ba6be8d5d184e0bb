"""A3: does the same seed give the same bits on this device, and what does that cost?

A step is compiled without options, and with each set of options that should make it
repeatable, twice: the SHA-256 of the state after some steps, and images a second, in
turn. `chosen` is what `train.deterministic=true` does:
no kernels that add in varying order, and what was chosen by timing kept for the second
start; `all` is XLA's own option for it. Then the quickstart under it, twice and
killed on its way: metrics and parameters, byte for byte.

Results are lines of OUT/a3.jsonl. What stands there is not measured again. `--dry` runs
all of it in small on a CPU.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "reliability"))

import pieces


# isort: split

from alexnet_jax.runs.metrics_file import METRICS_FILE
from alexnet_jax.runtime import cli
from alexnet_jax.runtime.errors import Failure

import harness
import network
from commands import command, quick
from kill_resume import what_is_left
from pieces import Piece


STEPS = 30
OPTIONS = ("none", "chosen", "all")


class Side:
    """A process with the step compiled under one set of options.

    A process each, since XLA remembers what it has chosen for a program, whatever the
    options.
    """

    def __init__(self, *arguments: str) -> None:
        # All sides are there at once, and JAX takes three quarters of a GPU by default.
        share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.25"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--side", *arguments],
            env=share | dict(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"a side ended with {self.process.wait()}")
        return json.loads(line)

    def rate(self) -> float:
        """Images a second of some steps."""
        print(file=self.process.stdin, flush=True)
        return self.read()

    def end(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compared(
    dry: bool, folder: Path, implementation: str, batch: int, start: int
) -> dict[str, Any]:
    """What each set of options gives, and images a second in turn."""
    del start
    given = (implementation, str(batch), str(folder), *(["--dry"] if dry else []))
    # A CPU has none of the options.
    tried = OPTIONS[:2] if dry else OPTIONS
    sides: dict[str, Side] = {}
    result: dict[str, Any] = {}
    try:
        for options in tried:
            sides[options] = Side(options, *given)
            if dry:
                # The next one takes from the cache what this one has compiled.
                result[options] = sides[options].read()
        for options in tried[len(result) :]:
            result[options] = sides[options].read()
        measures = {options: side.rate for options, side in sides.items()}
        rounds = harness.in_turn(measures, 1 if dry else 7)
    finally:
        for side in sides.values():
            side.end()
    for options in tried:
        result[options]["rounds"] = [each[options] for each in rounds]
    return result


def serve(given: argparse.Namespace) -> None:
    """A side: compile the step, print what it gives, then measure at every line."""
    import jax

    from alexnet_jax.runs import determinism

    options, implementation, batch, folder = given.side
    device = jax.devices()[0]
    compiled = determinism.choose(
        "true" if options == "chosen" else "false",
        platform=device.platform,
        kind=device.device_kind,
        folder=Path(folder) / f"autotuning-{implementation}-{batch}",
    )
    asked = dict(compiled.options)
    if options == "all" and device.platform == "gpu":
        asked["xla_gpu_deterministic_ops"] = True
    begin = time.perf_counter()
    ours = network.steps(
        given.dry, "bfloat16", implementation, int(batch), compiler_options=asked
    )
    seconds = time.perf_counter() - begin
    if compiled.autotuning is not None:
        compiled.autotuning.keep()
    state = ours.start(0)
    steps = 3 if given.dry else STEPS
    for _ in range(steps):
        state, _ = ours.next(state)
    calls = re.findall(r'custom_call_target="([^"]*)"', ours.text)
    first = {
        "sha256": network.digest(state),
        "seconds_to_compile": round(seconds, 2),
        "library_calls": dict(Counter(calls)),
        "algorithms": re.findall(r'"algo_id":"?(\d+)', ours.text),
    }
    print(json.dumps(first), flush=True)
    for _ in sys.stdin:
        rate = ours.rates(ours.start(0), 1, steps)[0]
        print(json.dumps(rate), flush=True)


def arguments_of(dry: bool, workdir: Path) -> list[str]:
    return [
        "--no-report",
        "--config=quickstart",
        f"--workdir={workdir}",
        "--config.model.dtype=bfloat16",
        "--config.train.deterministic=true",
        "--config.train.save_steps=50",
        *(quick("code2012") if dry else []),
    ]


def whole_runs(dry: bool, output: Path) -> dict[str, object]:
    """The quickstart twice, and once killed and continued: metrics without clock
    fields, checkpoints, and the digests of their arrays."""
    runs = {name: output / f"bits-{name}" for name in ("first", "second", "killed")}
    for name in ("first", "second"):
        command("main", *arguments_of(dry, runs[name]))
    killed = subprocess.Popen(
        [sys.executable, "-m", "alexnet_jax.main", *arguments_of(dry, runs["killed"])],
        stdout=subprocess.DEVNULL,
    )
    # After half of the lines, whatever the machine's speed.
    half = len((runs["first"] / METRICS_FILE).read_text().splitlines()) // 2
    metrics = runs["killed"] / METRICS_FILE
    while killed.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= max(1, half):
            killed.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    status = killed.wait()
    command("main", *arguments_of(dry, runs["killed"]))
    left = {name: what_is_left(workdir) for name, workdir in runs.items()}
    notes = json.loads((runs["first"] / "run.json").read_text())["starts"][0]
    return {
        "status_of_the_killed": status,
        "second_equals_first": left["second"] == left["first"],
        "killed_equals_first": left["killed"] == left["first"],
        "determinism": notes["determinism"],
    }


def pieces_of(dry: bool, output: Path) -> list[Piece]:
    """The part's pieces."""

    def in_turn(kind: str, batch: int, start: int) -> Piece:
        name = {"implementation": kind, "batch": batch, "start": start}
        return Piece(name, partial(compared, dry, output, *name.values()), 80)

    whole = Piece({"what": "quickstart"}, partial(whole_runs, dry, output), 120)
    if dry:
        # A1 compiles the step meanwhile, and this its quickstart.
        return [whole, in_turn("xla", 8, 0)]
    return [
        *(in_turn("fused", 128, start) for start in (0, 1)),
        whole,
        *(in_turn(kind, 1024, 0) for kind in ("fused", "xla")),
        *(in_turn("xla", 128, start) for start in (0, 1)),
    ]


def main() -> None:
    """The part."""
    if "--side" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--side", nargs=4)
        parser.add_argument("--dry", action="store_true")
        serve(parser.parse_args())
        return
    pieces.run("a3", __doc__, pieces_of)


if __name__ == "__main__":
    cli.run_command(main)
