"""Where a training step's time goes, layer by layer: one tower's share.

Every layer is compiled by itself, once for its values and once for each gradient.
Inside the step XLA joins neighbouring layers, so the sum is a guide; `train_step.py`
measures the step.
"""

import functools
import statistics
import sys
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp

from alexnet_jax.nn import lrn, pooling
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.convolution import convolve

from sides import CLASSES, SIZE


# Name, side, kernels of a tower, stride, and what follows.
CONVOLUTIONS = (
    ("conv1", 11, 48, 4, ("norm1", "pool1")),
    ("conv2", 5, 128, 1, ("norm2", "same-map norm2", "pool2")),
    ("conv3", 3, 192, 1, ()),
    ("conv4", 3, 192, 1, ()),
    ("conv5", 3, 128, 1, ("pool5",)),
)
FOLLOWING = {
    "norm": lrn.local_response_norm,
    "same": lrn.same_map_norm,
    "pool": functools.partial(
        pooling.max_pool, window=AlexNet.pool_window, stride=AlexNet.pool_stride
    ),
}
EXCHANGES = ("conv3", "fc6", "fc7")


def milliseconds(function, *arguments):
    function = jax.jit(function)
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def measure(function, x, *kernel):
    """Times of a layer, and its output."""
    y = function(x, *kernel)
    times = {"forward": milliseconds(function, x, *kernel)}
    for place, what in enumerate(("input", "kernel")[: 1 + len(kernel)]):

        def pull(x, dy, *kernel, place=place):
            return jax.vjp(function, x, *kernel)[1](dy)[place]

        times[f"gradient of {what}"] = milliseconds(pull, x, y, *kernel)
    return times, y


def profile(batch_size):
    """The table, as rows of `layer` and milliseconds."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (batch_size, SIZE, SIZE, 3))
    rows = []

    def add(name, function, x, *kernel):
        times, y = measure(function, x, *kernel)
        rows.append({"layer": name, **times})
        shown = "  ".join(f"{what} {value:7.1f} ms" for what, value in times.items())
        print(f"{name:<15} {shown}", file=sys.stderr)
        return y

    for name, side, kernels, stride, following in CONVOLUTIONS:
        if name in EXCHANGES:
            x = jnp.concatenate([x, x], axis=-1)
        kernel = 0.03 * jax.random.normal(key, (side, side, x.shape[-1], kernels))
        x = add(name, lambda x, w, s=stride: convolve(x, w, s), x, kernel)
        for what in following:
            x = add(what, FOLLOWING[what[:4]], x)
    x = x.reshape(batch_size, -1)
    for name, width in (("fc6", 2048), ("fc7", 2048), ("fc8", CLASSES)):
        if name in EXCHANGES:
            x = jnp.concatenate([x, x], axis=-1)
        kernel = 0.01 * jax.random.normal(key, (x.shape[-1], width))
        x = add(name, jnp.matmul, x, kernel)
    return rows
