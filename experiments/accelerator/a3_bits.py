"""A3: does the same seed give the same bits on this device, and what does that cost?

A step is compiled without options, and with each set of options that should make it
repeatable, in two processes one after the other: the SHA-256 of the state after some
steps, and images a second, in turn. `chosen` is what `train.deterministic=true` does:
no kernels that add in varying order, and what was chosen by timing kept for the second
start; `all` is XLA's own option for it. Then the quickstart under it, twice and
killed on its way: metrics and parameters, byte for byte.

Results are lines of OUT/a3.jsonl. What stands there is not measured again. `--dry` runs
all of it in small on any device.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "reliability"))

import pieces


# isort: split

from alexnet_jax.runs.metrics_file import METRICS_FILE
from alexnet_jax.runtime import cli

import harness
import network
from commands import command, quick
from kill_resume import what_is_left
from pieces import Piece


STEPS = 30
OPTIONS = ("none", "chosen", "all")


def process(dry: bool, folder: Path, implementation: str, batch: int, start: int):
    """What one process says of each set of options."""
    del start
    given = (implementation, str(batch), str(folder))
    return pieces.last_line(__file__, "--process", *given, *(["--dry"] if dry else []))


def one_process(given: argparse.Namespace) -> None:
    """Compile the step with each set of options, run these in turn, print it all."""
    import jax

    from alexnet_jax.runs import determinism

    implementation, batch, folder = given.process
    device, dtype = jax.devices()[0], "bfloat16"
    chosen = determinism.choose(
        "true",
        platform=device.platform,
        kind=device.device_kind,
        folder=Path(folder) / f"autotuning-{implementation}-{batch}",
    )
    everything = {"xla_gpu_deterministic_ops": True}
    options = {
        "none": {},
        "chosen": chosen.options,
        "all": everything if device.platform == "gpu" else {},
    }
    sides, result = {}, {}
    for name in given.options:
        asked = options[name]
        begin = time.perf_counter()
        ours = network.steps(
            given.dry, dtype, implementation, int(batch), compiler_options=asked
        )
        seconds = time.perf_counter() - begin
        if name == "chosen" and chosen.autotuning is not None:
            chosen.autotuning.keep()
        state = ours.start(0)
        for _ in range(STEPS):
            state, _ = ours.next(state)
        calls = re.findall(r'custom_call_target="([^"]*)"', ours.text)
        result[name] = {
            "sha256": network.digest(state),
            "seconds_to_compile": round(seconds, 2),
            "library_calls": dict(Counter(calls)),
            "algorithms": re.findall(r'"algo_id":"?(\d+)', ours.text),
        }
        sides[name] = partial(one_rate, ours)
    rounds = harness.in_turn(sides, 1 if given.dry else 7)
    for name in sides:
        result[name]["rounds"] = [each[name] for each in rounds]
    print(json.dumps(result))


def one_rate(ours: network.Steps) -> float:
    """Images a second of some steps."""
    return ours.rates(ours.start(0), 1, STEPS)[0]


def arguments_of(dry: bool, workdir: Path) -> list[str]:
    return [
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
    batches = (2,) if dry else (128, 1024)
    found = [
        Piece(
            {"implementation": kind, "batch": batch, "start": start},
            partial(process, dry, output, kind, batch, start),
        )
        for batch in batches
        for kind in (network.fused(dry), "xla")
        for start in (0, 1)
    ]
    whole = Piece({"what": "quickstart"}, partial(whole_runs, dry, output))
    return [*found[:2], whole, *found[2:]]


def main() -> None:
    """The part."""
    if "--process" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--process", nargs=3)
        parser.add_argument("--options", nargs="+", choices=OPTIONS, default=OPTIONS)
        parser.add_argument("--dry", action="store_true")
        one_process(parser.parse_args())
        return
    pieces.run("a3", __doc__, pieces_of)


if __name__ == "__main__":
    cli.run_command(main)
