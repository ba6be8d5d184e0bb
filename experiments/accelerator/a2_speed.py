"""A2: how fast is a step, in XLA, with fused kernels, and in PyTorch where it is there?

Runs `experiments/benchmarks/train_step.py`, whose sides take turns: in bfloat16 at
batches 128 and 1,024, train and forward, then in float32. Results are OUT/a2-DTYPE/
train_step.json; what stands there is not measured again. `--dry` runs one side in
small.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

from alexnet_jax.runtime import cli, progress
from alexnet_jax.runtime.errors import Failure


BENCHMARK = experiment.ROOT / "experiments" / "benchmarks" / "train_step.py"
FOR_GPUS = ["--tower=1", "--batch_sizes", "1024", "128", "--images=20480", "--rounds=5"]
DRY = ["--tower=1", "--batch_sizes", "1", "--images=1", "--rounds=1", "--modes=forward"]


def main() -> None:
    """The part."""
    parser = experiment.parser(__doc__, runs=False, quick="the same as --dry")
    parser.add_argument("--dry", action="store_true", help="all of it in small")
    given = parser.parse_args()
    dry = given.dry or given.quick
    peers = ["ours_fused"]
    if not dry and importlib.util.find_spec("torch") is not None:
        peers += ["channels_last", "compiled"]
    for dtype in ("bfloat16", "float32"):
        folder = given.output / f"a2-{dtype}"
        if (folder / "train_step.json").exists():
            continue
        done = subprocess.run(
            [
                *(sys.executable, str(BENCHMARK), f"--output={folder}"),
                *(f"--dtype={dtype}", *(DRY if dry else FOR_GPUS)),
                *("--peers", *peers),
            ],
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:
            raise Failure(f"{BENCHMARK.name} ended with {done.returncode}")
        progress.say(f"A2 {dtype}: done")
    progress.print_result({"part": "a2", "results": str(given.output)})


if __name__ == "__main__":
    cli.run_command(main)
