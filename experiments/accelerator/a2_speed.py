"""A2: how fast is a step, in XLA, with fused kernels, and in PyTorch where it is there?

The time of each kernel of the training step in bfloat16, by layer, from JAX's profiler;
then `experiments/benchmarks/train_step.py`, whose sides take turns, at batches of 1,024
and 128, train and forward, in bfloat16 and float32.

Results are lines of OUT/a2.jsonl. What stands there is not measured again. `--dry` runs
all of it in small.
"""

import importlib.util
import sys
from functools import partial
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

import pieces


# isort: split

from alexnet_jax.runtime import cli

import experiment
import network
from pieces import Piece


BENCHMARK = experiment.ROOT / "experiments" / "benchmarks" / "train_step.py"
FOR_GPUS = ("--images=20480", "--rounds=7")
DRY = ("--images=1", "--rounds=1")
TORCH = ("compiled", "channels_last")


def compared(
    dry: bool, dtype: str, mode: str, batch: int, peers: tuple[str, ...]
) -> object:
    """What the benchmark says of one comparison."""
    options = (f"--dtype={dtype}", f"--modes={mode}", f"--batch_sizes={batch}")
    amount = DRY if dry else FOR_GPUS
    arguments = (*options, "--tower=1", *amount, "--peers", *peers)
    return pieces.last_line(BENCHMARK, *arguments)


def kernels(dry: bool, dtype: str, implementation: str, batch: int) -> object:
    """What `kernel_times.py` says."""
    arguments = (dtype, implementation, str(batch), *(["--dry"] if dry else []))
    return pieces.last_line(pieces.HERE / "kernel_times.py", *arguments)


def pieces_of(dry: bool, output: Path) -> list[Piece]:
    """The part's pieces: the kernels, then the sides in turn."""
    del output
    batches = (1,) if dry else (1024, 128)
    found = [
        Piece(
            {"what": "kernels", "implementation": kind, "batch": batch},
            partial(kernels, dry, "bfloat16", kind, batch),
        )
        for batch in batches
        for kind in (network.fused(dry), "xla")
    ]
    torch = TORCH if importlib.util.find_spec("torch") is not None and not dry else ()
    # There are fused kernels for bfloat16 alone.
    for dtype, fused in (("bfloat16", ("ours_fused",)), ("float32", ())):
        peers = (*fused, *torch)
        if not peers:
            continue
        for mode in ("forward",) if dry else ("train", "forward"):
            for batch in batches:
                name = {"what": "in turn", "dtype": dtype, "mode": mode}
                measure = partial(compared, dry, dtype, mode, batch, peers)
                found.append(Piece({**name, "batch": batch}, measure))
    return found


def main() -> None:
    """The part."""
    pieces.run("a2", __doc__, pieces_of)


if __name__ == "__main__":
    cli.run_command(main)
