"""Is the train step faster than PyTorch's on the same machine?

The same network on both sides (`code2012`: two towers, response normalisation,
overlapping pooling, dropout, momentum SGD with decay), on one fixed batch of 224 crops.
PyTorch's has grouped convolutions, `LocalResponseNorm` and `torch.optim.SGD`, and runs
eager, eager with channels_last, and compiled. Each side is a process of its own, started
once; they run in turn. Forward alone (evaluation, without dropout) is measured too.

    python experiments/benchmarks/train_step.py --output=experiments/benchmarks/train_step

`ratio` is ours over the best of PyTorch's, at the first batch size. `matmul` is the
machine's own rate for a large matrix product in float32, and `of_matmul` the part of it
that a side reaches, counting 4.136 GFLOP for a training image and 1.449 forward. Memory
is `ru_maxrss` of the process, compilation included. `--profile` prints where our time
goes, layer by layer.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

import harness


CLASSES, SIZE = 1000, 224
GFLOP = {"train": 4.136, "forward": 1.449}
PEERS = ("eager", "channels_last", "compiled")


def host_batch(batch_size):
    rng = np.random.default_rng(0)
    shape = (batch_size, SIZE, SIZE, 3)
    return {
        "image": rng.integers(0, 256, shape, dtype=np.uint8),
        "label": rng.integers(0, CLASSES, batch_size).astype(np.int32),
        "colour_shift": rng.normal(0, 9, (batch_size, 3)).astype(np.float32),
    }


def ours(mode, batch_size, given):
    """A function that makes one step and waits for it."""
    import jax
    from jax.sharding import NamedSharding

    from alexnet_jax import mesh as meshes
    from alexnet_jax import optimizer, step
    from alexnet_jax.model import AlexNet

    mesh = meshes.open_mesh(
        towers=2, data=1, tower=given.tower, virtual_cpu_devices=given.tower
    )
    model = AlexNet(num_classes=CLASSES, dtype=given.dtype)
    schedule = optimizer.make_schedule(steps_per_epoch=1000)
    sgd = optimizer.momentum_sgd(schedule)
    mean = jax.device_put(
        np.full((SIZE, SIZE, 3), 120, np.float32), step.replicated(mesh)
    )
    host = host_batch(batch_size)
    carry = [step.init_state(model, sgd, mesh, SIZE, 0)]
    place = NamedSharding(mesh, meshes.EXAMPLES)
    if mode == "train":
        train = step.make_train_step(model, sgd, schedule, mesh, 0)
        batch = jax.device_put(host, place)

        def run():
            carry[0], metrics = train(carry[0], batch, mean)
            jax.block_until_ready((metrics, carry[0].params))

        return run
    evaluate = step.make_eval_step(model, mesh, crop=SIZE, views=1)
    host["mask"] = np.ones(batch_size, bool)
    batch = jax.device_put(
        {name: host[name] for name in ("image", "label", "mask")}, place
    )
    return lambda: jax.block_until_ready(evaluate(carry[0].params, batch, mean))


def torch_network():
    import torch
    from torch import nn

    class SameMapNorm(nn.Module):
        def forward(self, x):
            squares = nn.functional.avg_pool2d(x * x, 5, 1, 2)
            return x / (1 + 1e-3 * squares) ** 0.75

    def norm():
        return nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)

    def pool():
        return nn.MaxPool2d(3, 2)

    network = nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        nn.Conv2d(3, 96, 11, 4),
        norm(),
        nn.ReLU(),
        pool(),
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(),
        norm(),
        SameMapNorm(),
        pool(),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(),
        pool(),
        nn.Flatten(),
        nn.Linear(9216, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, CLASSES),
    )
    for module in network:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return network, torch


def torch_side(kind, mode, batch_size, given):
    network, torch = torch_network()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device)
    layout = torch.contiguous_format
    if kind == "channels_last" or device == "cuda":
        layout = torch.channels_last
        network = network.to(memory_format=layout)
    host = host_batch(batch_size)
    images = torch.from_numpy(host["image"]).to(device).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=layout)
    labels = torch.from_numpy(host["label"]).long().to(device)
    shift = torch.from_numpy(host["colour_shift"]).to(device)[:, :, None, None]
    half = torch.autocast(device, torch.bfloat16, enabled=given.dtype == "bfloat16")
    loss_of = torch.nn.CrossEntropyLoss()
    sgd = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=0.0005)

    def loss():
        shifted = (images.float() - 120 + 0.1 * shift) / 1.1
        with half:
            return loss_of(network(shifted).float(), labels)

    def forward():
        with torch.no_grad(), half:
            return network(images.float() - 120)

    work = loss if mode == "train" else forward
    if kind == "compiled":
        work = torch.compile(work)
    network.train(mode == "train")

    def run():
        if mode == "train":
            sgd.zero_grad(set_to_none=True)
            work().backward()
            sgd.step()
        else:
            work()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def serve(given):
    """A side: make it ready, then measure whenever a line comes."""
    begin = time.perf_counter()
    arguments = (given.mode, given.batch_size, given)
    run = (
        ours(*arguments) if given.side == "ours" else torch_side(given.side, *arguments)
    )
    for _ in range(2):
        run()
    print(json.dumps({"seconds_to_start": time.perf_counter() - begin}), flush=True)
    for line in sys.stdin:
        steps = int(line)
        begin = time.perf_counter()
        for _ in range(steps):
            run()
        rate = steps * given.batch_size / (time.perf_counter() - begin)
        unit = 1024 if sys.platform == "linux" else 1
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        print(json.dumps({"rate": rate, "memory": peak}), flush=True)


class Side:
    """A side in its process."""

    def __init__(self, name, mode, batch_size, given):
        command = [sys.executable, __file__, f"--side={name}", f"--mode={mode}"]
        command += [f"--batch_size={batch_size}", f"--tower={given.tower}"]
        self.process = subprocess.Popen(
            [*command, f"--dtype={given.dtype}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.steps = max(1, round(given.images / batch_size))
        self.started = self._read()["seconds_to_start"]
        self.memory = 0

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with {self.process.wait()}")
        return json.loads(line)

    def rate(self):
        print(self.steps, file=self.process.stdin, flush=True)
        told = self._read()
        self.memory = told["memory"]
        return told["rate"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def matmul_rate():
    """GFLOP/s of the machine's best matrix product of 2048 in float32, by NumPy."""
    a = np.ones((2048, 2048), np.float32)
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        a @ a
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
        "memory": {name: side.memory for name, side in sides.items()},
        "seconds_to_start": {name: side.started for name, side in sides.items()},
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
                f"ready after {row['seconds_to_start'][name]:5.1f} s",
                file=sys.stderr,
            )
        ratio = row["ratio"]
        print(
            f"  ours over {row['best_peer']}: {ratio['median']:.3f} "
            f"({ratio['smallest']:.3f} to {ratio['largest']:.3f})",
            file=sys.stderr,
        )


def profile(given):
    """Milliseconds of every layer's parts, forward and backward, one tower's share."""
    import jax
    import jax.numpy as jnp

    from alexnet_jax import lrn, pooling
    from alexnet_jax.convolution import convolve

    def seconds(function, *arguments):
        function = jax.jit(function)
        jax.block_until_ready(function(*arguments))
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    def both(name, function, x, *others):
        y = function(x, *others)
        forward = seconds(function, x, *others)
        parts = {"forward": forward}
        for place, what in enumerate(("input gradient", "kernel gradient")):
            if place < 1 + len(others[:1]):

                def pull(x, y, *others, place=place):
                    return jax.vjp(function, x, *others)[1](y)[place]

                parts[what] = seconds(pull, x, y, *others) - (0 if others else forward)
        print(
            f"{name:<8}"
            + "".join(
                f"  {what} {value * 1e3:7.1f} ms" for what, value in parts.items()
            ),
            file=sys.stderr,
        )
        return y

    size = given.batch_sizes[0]
    x = jnp.ones((size, SIZE, SIZE, 3))
    stages = (
        ("conv1", 11, 48, 4, ("norm", "pool")),
        ("conv2", 5, 128, 1, ("norm", "same", "pool")),
        ("conv3", 3, 192, 1, ()),
        ("conv4", 3, 192, 1, ()),
        ("conv5", 3, 128, 1, ("pool",)),
    )
    after = {
        "norm": lambda x: lrn.local_response_norm(
            x, size=5, k=2.0, alpha=2e-5, beta=0.75
        ),
        "same": lrn.same_map_norm,
        "pool": pooling.max_pool,
    }
    for name, side, channels, stride, steps in stages:
        if name == "conv3":
            x = jnp.concatenate([x, x], axis=-1)
        kernel = jnp.full((side, side, x.shape[-1], channels), 0.01)
        x = both(
            name,
            lambda x, w, stride=stride: convolve(x, w, stride),
            x,
            kernel,
        )
        for step in steps:
            x = both(step, after[step], x)
    x = jnp.concatenate([x, x], axis=-1).reshape(size, -1)
    for name, width in (("fc6", 2048), ("fc7", 2048), ("fc8", CLASSES)):
        kernel = jnp.full((x.shape[-1], width), 0.01)
        x = both(name, jnp.matmul, x, kernel)
        x = jnp.concatenate([x, x], axis=-1) if name == "fc6" else x


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--batch_sizes", type=int, nargs="+", default=[32, 128])
    add(
        "--modes", nargs="+", choices=("train", "forward"), default=["train", "forward"]
    )
    add("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    add("--rounds", type=int, default=7)
    add("--images", type=int, default=128, help="measured in a round and side, about")
    add("--tower", type=int, default=2, help="devices for the towers")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--output", type=Path, help="folder for the raw results")
    add("--profile", action="store_true", help="our layers' times instead")
    add("--side", choices=("ours", *PEERS), help=argparse.SUPPRESS)
    add("--mode", choices=("train", "forward"), help=argparse.SUPPRESS)
    add("--batch_size", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        serve(given)
        return
    if given.profile:
        profile(given)
        return
    matmul = matmul_rate()
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
        "ratio": rows[0]["ratio"]["median"],
        "matmul": matmul,
        "comparisons": rows,
        **harness.machine("jax", "flax", "optax", "torch"),
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
