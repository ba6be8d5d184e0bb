"""A2: how fast is a step, in XLA, with fused kernels, and in PyTorch where it is there?

`experiments/benchmarks/train_step.py`, whose sides take turns, at batches of 1,024 and
128, train and forward, in bfloat16 and float32; and the time of each kernel of the
training step in bfloat16, by layer, from JAX's profiler, of `owt` too.

Results are lines of OUT/a2.jsonl. What stands there is not measured again. `--dry` runs
all of it in small on a CPU.
"""

import importlib.util
import sys
from functools import partial
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

import pieces


# isort: split

from alexnet_jax.runtime import cli, progress

import experiment
from pieces import Piece


BENCHMARK = experiment.ROOT / "experiments" / "benchmarks" / "train_step.py"
FOR_GPUS = ("--images=20480", "--rounds=7")
DRY = ("--images=1", "--rounds=1", "--narrow")
TORCH = ("compiled", "channels_last")
MODES = ("train", "forward")


def compared(
    dry: bool, dtype: str, mode: str, batch: int, peers: tuple[str, ...]
) -> object:
    """What the benchmark says of one comparison."""
    options = (f"--dtype={dtype}", f"--modes={mode}", f"--batch_sizes={batch}")
    amount = DRY if dry else FOR_GPUS
    arguments = (*options, "--tower=1", *amount, "--peers", *peers)
    return pieces.last_line(BENCHMARK, *arguments)


def kernels(
    dry: bool, implementation: str, batch: int, preset: str = "code2012"
) -> object:
    """What `kernel_times.py` says."""
    arguments = ("bfloat16", implementation, str(batch), f"--preset={preset}")
    dry_too = ["--dry"] if dry else []
    return pieces.last_line(pieces.HERE / "kernel_times.py", *arguments, *dry_too)


def pieces_of(dry: bool, output: Path) -> list[Piece]:
    """The part's pieces, those first that say most."""
    del output
    torch = TORCH if importlib.util.find_spec("torch") is not None else ()
    if not torch:
        progress.say("without PyTorch, which is not installed; `pip install torch`")

    def in_turn(dtype: str, mode: str, batch: int, *peers: str) -> Piece:
        name = {"what": "in turn", "dtype": dtype, "mode": mode, "batch": batch}
        measure = partial(compared, dry, dtype, mode, batch, peers)
        return Piece(name, measure, 90 if torch else 50)

    def of_kernels(kind: str, batch: int) -> Piece:
        name = {"what": "kernels", "implementation": kind, "batch": batch}
        return Piece(name, partial(kernels, dry, kind, batch), 55)

    if dry:
        return [of_kernels("xla", 8), in_turn("bfloat16", "forward", 1, "ours_fused")]
    ours = ("ours_fused", *torch)
    found = [
        in_turn("bfloat16", "train", 1024, *ours),
        in_turn("bfloat16", "train", 128, *ours),
        in_turn("bfloat16", "forward", 1024, *ours),
        *(of_kernels(kind, 1024) for kind in ("fused", "xla")),
        *(of_kernels(kind, 128) for kind in ("fused", "xla")),
        in_turn("bfloat16", "forward", 128, *ours),
    ]
    # There are fused kernels for bfloat16 alone.
    if torch:
        found += [in_turn("float32", mode, 1024, *torch) for mode in MODES]
    name = {"what": "kernels", "preset": "owt", "implementation": "fused"}
    measure = partial(kernels, dry, "fused", 2048, "owt")
    return [*found, Piece({**name, "batch": 2048}, measure, 60)]


def main() -> None:
    """The part."""
    pieces.run("a2", __doc__, pieces_of)


if __name__ == "__main__":
    cli.run_command(main)
