"""Is the train step faster than PyTorch's on the same machine?

The same network on both sides (`code2012`: two towers, response normalisation,
overlapping pooling, dropout, momentum, weight decay), on one fixed batch of 224 crops.
PyTorch's has grouped convolutions, `LocalResponseNorm` and `torch.optim.SGD`, and runs
eager, eager with channels_last, and compiled. Each side is a process, started once;
they run in turn, each turn with a first step outside the clock. Forward alone
(evaluation, without dropout) is measured too.

    python experiments/benchmarks/train_step.py --output=FOLDER
    python experiments/benchmarks/train_step.py --dtype=bfloat16 --tower=1 \\
        --batch_sizes 128 1024 --output=FOLDER        # on a GPU

`ratio` is ours over the best of PyTorch's in the first comparison; the others are in
`comparisons`. `matmul` is the machine's speed for a large matrix product in the type,
of which a side reaches a fraction: 4.136 GFLOP for a training image, 1.449 forward.
Memory is `ru_maxrss` of the process, compilation included; on a GPU the peak of the
device's. Ours runs on huge pages, as `alexnet_jax.main` does where the kernel gives
them; what they are worth is the ratio with `--peers ours_on_small_pages`, fused
kernels with `--peers ours_fused`, and the order of operations that needs least memory
with `--peers ours_in_default_order`. `--profile` measures our layers, one by one,
instead.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from alexnet_jax.runtime import hugepages, optional

import harness
from sides import DEFAULT_ORDER, FUSED, PEERS, SMALL_PAGES, ours, torch_side


OURS = ("ours", DEFAULT_ORDER, FUSED, SMALL_PAGES)
GFLOP = {"train": 4.136, "forward": 1.449}
ACCELERATOR_MATMUL = """
import sys, time
import jax, jax.numpy as jnp
if jax.default_backend() == "cpu":
    print("null")
    raise SystemExit
a = jnp.ones((8192, 8192), sys.argv[1])
product = jax.jit(jnp.matmul)
product(a, a).block_until_ready()
times = []
for _ in range(10):
    begin = time.perf_counter()
    product(a, a).block_until_ready()
    times.append(time.perf_counter() - begin)
print(2 * 8192**3 / min(times) / 1e9)
"""


def peak_memory(side):
    """Bytes, of the accelerator where one is used, else of this process."""
    if side in OURS:
        import jax

        device = jax.devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in device:
            return device["peak_bytes_in_use"]
    else:
        import torch  # pyright: ignore[reportMissingImports]

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    unit = 1024 if sys.platform == "linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(given):
    """A side: make it ready, then measure whenever a line comes."""
    begin = time.perf_counter()
    arguments = (given.mode, given.batch_size, given)
    run = ours(*arguments) if given.side in OURS else torch_side(given.side, *arguments)
    built = time.perf_counter()
    run()
    first = {"built": built - begin, "first_step": time.perf_counter() - built}
    run()
    print(json.dumps(first), flush=True)
    for line in sys.stdin:
        steps = int(line)
        # The operating system first has to gather the memory that the last side freed.
        run()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        begin = time.perf_counter()
        for _ in range(steps):
            run()
        rate = steps * given.batch_size / (time.perf_counter() - begin)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        measured = {"rate": rate, "memory": peak_memory(given.side)}
        print(json.dumps({**measured, "page_faults": faults / steps}), flush=True)


class Side:
    """A side in its process."""

    def __init__(self, name, mode, batch_size, given):
        command = [sys.executable, __file__, f"--side={name}", f"--mode={mode}"]
        command += [f"--batch_size={batch_size}", f"--tower={given.tower}"]
        command += ["--narrow"] if given.narrow else []
        environment = {k: v for k, v in os.environ.items() if k != hugepages.TUNABLES}
        if name in ("ours", DEFAULT_ORDER) and hugepages.on_request():
            environment[hugepages.TUNABLES] = hugepages.REQUEST
        # All sides are there at once, and JAX takes three quarters of a GPU by default.
        environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.25")
        self.process = subprocess.Popen(
            [*command, f"--dtype={given.dtype}"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.steps = max(1, round(given.images / batch_size))
        self.first = self._read()
        self.last = {}

    def _read(self):
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with {self.process.wait()}")
        return json.loads(line)

    def rate(self):
        print(self.steps, file=self.process.stdin, flush=True)
        self.last = self._read()
        return self.last["rate"]

    def close(self):
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def matmul_rate(dtype):
    """GFLOP/s of the best of some large matrix products.

    On CPU by NumPy in float32, else by JAX in a separate process, which gives the
    accelerator's memory back.
    """
    done = subprocess.run(
        [sys.executable, "-c", ACCELERATOR_MATMUL, dtype],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rate = json.loads(done.stdout)
    if rate is not None:
        return rate
    a = np.ones((2048, 2048), np.float32)
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        np.matmul(a, a)
        times.append(time.perf_counter() - begin)
    return 2 * 2048**3 / min(times) / 1e9


def compare(mode, batch_size, given):
    names = ("ours", *given.peers)
    sides = {name: Side(name, mode, batch_size, given) for name in names}
    measured = harness.in_turn(
        {name: side.rate for name, side in sides.items()}, given.rounds
    )
    for side in sides.values():
        side.close()
    middle = harness.medians(measured)
    best = max(given.peers, key=middle.__getitem__)
    return {
        "mode": mode,
        "batch_size": batch_size,
        "medians": middle,
        "best_peer": best,
        "ratio": harness.ratio(measured, "ours", best),
        "memory": {name: side.last["memory"] for name, side in sides.items()},
        "page_faults": {name: side.last["page_faults"] for name, side in sides.items()},
        "seconds_before": {name: side.first for name, side in sides.items()},
        "rounds": measured,
    }


def table(rows, matmul):
    print(f"matrix product: {matmul:.0f} GFLOP/s", file=sys.stderr)
    for row in rows:
        print(f"{row['mode']}, batch {row['batch_size']}", file=sys.stderr)
        for name, rate in row["medians"].items():
            part = rate * GFLOP[row["mode"]] / matmul
            print(
                f"  {name:<14} {rate:8.2f} images/s  {part:5.0%} of matmul  "
                f"{row['memory'][name] / 2**30:5.2f} GiB  "
                f"{row['page_faults'][name]:7.0f} page faults a step  "
                f"first step {row['seconds_before'][name]['first_step']:5.1f} s",
                file=sys.stderr,
            )
        ratio = row["ratio"]
        print(
            f"  ours over {row['best_peer']}: {ratio['median']:.3f} "
            f"({ratio['smallest']:.3f} to {ratio['largest']:.3f})",
            file=sys.stderr,
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--batch_sizes", type=int, nargs="+", default=[32, 128])
    add(
        "--modes", nargs="+", choices=("train", "forward"), default=["train", "forward"]
    )
    add("--peers", nargs="+", choices=(*PEERS, *OURS[1:]), default=list(PEERS))
    add("--rounds", type=int, default=7)
    add("--images", type=int, default=128, help="measured in a round and side, about")
    add("--tower", type=int, default=2, help="devices for the towers")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--narrow", action="store_true", help="a few channels, to see that it works")
    add("--output", type=Path, help="folder for the raw results")
    add("--profile", action="store_true", help="measure our layers one by one")
    add("--side", choices=(*OURS, *PEERS), help=argparse.SUPPRESS)
    add("--mode", choices=("train", "forward"), help=argparse.SUPPRESS)
    add("--batch_size", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        serve(given)
        return
    if given.profile:
        import layers

        result = {
            "benchmark": "layers",
            "unit": "milliseconds, one tower",
            "batch_size": given.batch_sizes[0],
            "layers": layers.profile(given.batch_sizes[0]),
            **harness.machine("jax"),
        }
        harness.write(result, given.output)
        return
    torch = ["torch"] if set(given.peers) & set(PEERS) else []
    if torch and not optional.is_installed("torch"):
        parser.error("PyTorch's sides need the package torch; `pip install torch`")
    matmul = matmul_rate(given.dtype)
    rows = [
        compare(mode, batch_size, given)
        for mode in given.modes
        for batch_size in given.batch_sizes
    ]
    table(rows, matmul)
    result = {
        "benchmark": "train_step",
        "unit": "images per second",
        "dtype": given.dtype,
        "tower": given.tower,
        "ratio": rows[0]["ratio"]["median"],
        "matmul": matmul,
        "comparisons": rows,
        **harness.machine("jax", "flax", "optax", *torch),
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
