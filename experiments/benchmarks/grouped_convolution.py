"""Is the train step faster than the same network written the usual way?

The usual way is one tower of twice the width with `feature_group_count=2` in conv2,
conv4 and conv5, XLA's own max pooling (`reduce_window`) and a response normalisation
left to automatic differentiation. Both sides take the same step: 224 crops, dropout,
momentum and weight decay; they run in turn, in one process.

    python experiments/benchmarks/grouped_convolution.py --output=FOLDER
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

from alexnet_jax.runtime import hugepages
from alexnet_jax.training import preprocess


if __name__ == "__main__":
    # Before the slow imports, since it restarts the process.
    hugepages.use()

import jax
import jax.numpy as jnp
import optax
from jax import lax

from alexnet_jax.nn.alexnet import AlexNet

import harness
import sides
from sides import CLASSES, SIZE


def usual_norm(x, *, size, k, alpha, beta, spatial=False):
    """Response normalisation by `reduce_window` and a power."""
    window = (1, size, size, 1) if spatial else (1, 1, 1, size)
    total = lax.reduce_window(x * x, 0.0, lax.add, window, (1, 1, 1, 1), "SAME")
    return x / jnp.power(k + alpha * total, beta)


def usual_pool(x):
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID")


def usual_logits(params, images, key):
    """`code2012` without towers: their halves are groups of channels."""

    def conv(
        name,
        x,
        stride=1,
        padding: str | Sequence[tuple[int, int]] = "SAME",
        groups=1,
    ):
        y = lax.conv_general_dilated(
            x,
            params[name]["kernel"],
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return y + params[name]["bias"]

    def by_tower(x):
        constants = {"size": 5, "k": 2.0, "alpha": 2e-5, "beta": 0.75}
        halves = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([usual_norm(h, **constants) for h in halves], axis=-1)

    border = (0, (11 - SIZE) % 4)
    x = conv("conv1", images, stride=4, padding=(border, border))
    x = jax.nn.relu(usual_pool(by_tower(x)))
    x = by_tower(jax.nn.relu(conv("conv2", x, groups=2)))
    x = usual_norm(x, size=5, k=1.0, alpha=4e-5, beta=0.75, spatial=True)
    x = usual_pool(x)
    x = jax.nn.relu(conv("conv3", x))
    x = jax.nn.relu(conv("conv4", x, groups=2))
    x = jax.nn.relu(usual_pool(conv("conv5", x, groups=2)))
    x = x.reshape(x.shape[0], -1)
    for name, drop_key in zip(("fc6", "fc7"), jax.random.split(key), strict=True):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
        x = jnp.where(jax.random.bernoulli(drop_key, 0.5, x.shape), x, 0)
    return x @ params["fc8"]["kernel"] + params["fc8"]["bias"]


def without_towers(params):
    """The parameters of two towers as those of one network with groups."""

    def joined(name, layer):
        kernel, bias = layer["kernel"], layer["bias"]
        axis = 0 if name == "fc8" else -1
        kernel = jnp.concatenate(list(kernel), axis=axis)
        return {"kernel": kernel, "bias": bias.reshape(-1)}

    return {name: joined(name, layer) for name, layer in params.items()}


def usual_side(batch_size):
    """A function that makes one step of the usual network, and waits for it."""
    images = jnp.zeros((1, SIZE, SIZE, 3))
    params = AlexNet(num_classes=CLASSES).init(jax.random.key(0), images)["params"]
    mean = jnp.full((SIZE, SIZE, 3), 120, jnp.float32)
    sgd = optax.chain(optax.add_decayed_weights(0.0005), optax.sgd(0.01, 0.9))

    def loss(params, batch, key):
        images = preprocess.shift_colours(
            batch["image"], mean, batch["colour_shift"], jnp.float32(0.1)
        )
        logits = usual_logits(params, images, key)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, batch["label"]
        ).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train(params, state, batch, key):
        value, grads = jax.value_and_grad(loss)(params, batch, key)
        updates, state = sgd.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    carry = [without_towers(params), None]
    carry[1] = sgd.init(carry[0])
    batch = jax.device_put(sides.host_batch(batch_size))

    def run():
        carry[0], carry[1], value = train(*carry, batch, jax.random.key(0))
        jax.block_until_ready(value)
        jax.block_until_ready(carry[0])

    return run


def rate(run, given):
    begin = time.perf_counter()
    for _ in range(given.steps):
        run()
    return given.batch_size * given.steps / (time.perf_counter() - begin)


def main():
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="in a round and side")
    parser.add_argument("--tower", type=int, default=2, help="devices for the towers")
    parser.add_argument("--output", type=Path, help="folder for the raw results")
    # What else `sides.ours` takes.
    parser.set_defaults(dtype="float32", side="ours", narrow=False)
    given = parser.parse_args()
    runs = {
        "ours": sides.ours("train", given.batch_size, given),
        "usual": usual_side(given.batch_size),
    }
    for run in runs.values():
        run()
    measured = harness.in_turn(
        {name: functools.partial(rate, run, given) for name, run in runs.items()},
        given.rounds,
    )
    ratio = harness.ratio(measured, "ours", "usual")
    result = {
        "benchmark": "grouped_convolution",
        "unit": "images per second",
        "batch_size": given.batch_size,
        **harness.medians(measured),
        "ratio": ratio["median"],
        "ratio_spread": [ratio["smallest"], ratio["largest"]],
        "rounds": measured,
        "devices": [str(device) for device in jax.devices()],
        **harness.machine("jax", "flax", "optax"),
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
