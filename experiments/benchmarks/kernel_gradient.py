"""Is our gradient of a convolution's kernel faster than XLA's on this platform?

Both ways of `alexnet_jax.nn.convolution`, for one tower of each convolutional layer, in
turn. The library takes the way that is faster in this measurement: the products of taps
on CPU, XLA's elsewhere.

    python experiments/benchmarks/kernel_gradient.py --output=FOLDER

`ratio` is the time of all five layers by XLA's way over ours. Both run on huge pages,
as `alexnet_jax.main` does.
"""

import argparse
import functools
import sys
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

from alexnet_jax.runtime import hugepages


if __name__ == "__main__":
    # Before the slow imports, since it restarts the process.
    hugepages.use()

import jax

from alexnet_jax.nn import convolution

import harness


# Name, side of the maps, channels, kernels, side of the kernel, stride.
LAYERS = (
    ("conv1", 224, 3, 48, 11, 4),
    ("conv2", 27, 48, 128, 5, 1),
    ("conv3", 13, 256, 192, 3, 1),
    ("conv4", 13, 192, 192, 3, 1),
    ("conv5", 13, 192, 128, 3, 1),
)
WAYS = {
    "taps": convolution.kernel_gradient_by_taps,
    "xla": convolution.kernel_gradient_by_xla,
}


def side(way, layer, given):
    """A function that measures layers per second."""
    _, size, channels, kernels, kernel_side, stride = layer
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (given.batch_size, size, size, channels))
    kernel = jax.random.normal(keys[1], (kernel_side, kernel_side, channels, kernels))
    x, kernel = x.astype(given.dtype), kernel.astype(given.dtype)
    shape = jax.eval_shape(lambda: convolution.convolve(x, kernel, stride)).shape
    dy = jax.random.normal(keys[2], shape).astype(given.dtype)
    gradient = jax.jit(functools.partial(WAYS[way], stride=stride))
    jax.block_until_ready(gradient(x, kernel, dy))

    def rate():
        begin = time.perf_counter()
        for _ in range(given.calls):
            jax.block_until_ready(gradient(x, kernel, dy))
        return given.calls / (time.perf_counter() - begin)

    return rate


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--batch_size", type=int, default=32)
    add("--rounds", type=int, default=7)
    add("--calls", type=int, default=3, help="in a round, way and layer")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    layers, totals = {}, []
    for layer in LAYERS:
        measured = harness.in_turn(
            {way: side(way, layer, given) for way in WAYS}, given.rounds
        )
        ratio = harness.ratio(measured, "taps", "xla")
        layers[layer[0]] = {"ratio": ratio, "rounds": measured}
        totals.append(measured)
        print(f"{layer[0]}: {ratio['median']:.2f}", file=sys.stderr)
    whole = [
        {way: 1 / sum(1 / rounds[number][way] for rounds in totals) for way in WAYS}
        for number in range(given.rounds)
    ]
    ratio = harness.ratio(whole, "taps", "xla")
    result = {
        "benchmark": "kernel_gradient",
        "unit": "all layers of one tower per second",
        "batch_size": given.batch_size,
        "dtype": given.dtype,
        "platform": jax.default_backend(),
        **harness.medians(whole),
        "ratio": ratio["median"],
        "ratio_spread": [ratio["smallest"], ratio["largest"]],
        "layers": layers,
        **harness.machine("jax"),
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
