"""How long is a training step on 1 to 1,024 devices, and when do towers pay?

A step on a mesh of `data` x `tower` devices is the sum of four times:

    compute     images of a device / its rate, for its share of the towers
    update      the parameters of a device, read and written, / memory bandwidth
    exchange    the features that towers show each other, there and back (8 collectives)
    all-reduce  gradients of a device over `data` devices, by a ring or a tree

    python experiments/scaling/scaling.py --output=experiments/scaling

prints one table a machine, what the model says of runs that were published (fitted on
the smallest of each series alone, the larger ones predicted), and the batch up to which
two devices are faster as two towers than as two halves of the batch. With `--measure`
it also measures this machine: its step on one device, on meshes (1, 2) and (2, 1) of
virtual devices, and on two processes, and compares.
"""

import argparse
import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path


sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[1] / "benchmarks"),
]

import harness


PARAMETERS = 60_965_224
# Features of an image that cross the border of the towers, each way, forward: half of
# pool2, of pool5, fc6 and fc7. Their gradients cross it on the way back.
FEATURES = 21_632 + 4_608 + 2_048 + 2_048
COLLECTIVES = 8
FLOATS_OF_UPDATE = 5  # Parameter, velocity, gradient read; parameter, velocity written.


@dataclasses.dataclass(frozen=True)
class Machine:
    """A kind of device and its links.

    Attributes:
      images_per_second: of one device with both towers, without the update.
      memory: bytes a second.
      link: bytes a second that a device sends while it receives as many.
      latency: seconds of a collective, or of one hop of the ring.
      feature_bytes: of an exchanged value.
      source: where the numbers come from.
    """

    images_per_second: float
    memory: float
    link: float
    latency: float
    feature_bytes: int
    source: str


H100 = Machine(
    60_000.0,
    3.35e12,
    450e9,
    15e-6,
    2,
    "assumed: 60,000 images/s in bfloat16 (not measured here), data sheet's memory and "
    "NVLink",
)
H100_HOSTS = dataclasses.replace(
    H100, link=25e9, latency=40e-6, source="the same over 200 Gb/s of network a device"
)


def step_seconds(machine, batch, data, tower):
    """Seconds of a step and its four parts."""
    images = batch / data
    update = FLOATS_OF_UPDATE * 4 * PARAMETERS / tower / machine.memory
    exchange = ring = 0.0
    if tower > 1:
        traffic = 2 * images * FEATURES * machine.feature_bytes
        exchange = traffic / machine.link + COLLECTIVES * machine.latency
    if data > 1:
        gradients = 4 * PARAMETERS / tower
        ring = 2 * (data - 1) / data * gradients / machine.link
        # A ring takes a hop for every device, a tree for every doubling.
        hops = min(data - 1, math.ceil(math.log2(data)))
        ring += 2 * hops * machine.latency
    parts = {
        "compute": images / tower / machine.images_per_second,
        "update": update,
        "exchange": exchange,
        "all_reduce": ring,
    }
    return {**parts, "step": sum(parts.values())}


def rate(machine, batch, data, tower):
    return batch / step_seconds(machine, batch, data, tower)["step"]


def even_batch(machine):
    """The batch up to which two devices are faster as towers; None if none is."""
    faster = [
        batch
        for batch in (2**power for power in range(3, 17))
        if rate(machine, batch, 1, 2) > rate(machine, batch, 2, 1)
    ]
    return max(faster, default=None)


def table(name, machine, batches):
    rows = []
    for batch_of_device in batches:
        for devices in (2**power for power in range(11)):
            batch = batch_of_device * devices
            row = {
                "machine": name,
                "devices": devices,
                "batch": batch,
                "data_parallel": rate(machine, batch, devices, 1),
                "towers": rate(machine, batch, devices // 2, 2)
                if devices > 1
                else None,
            }
            alone = rate(machine, batch_of_device, 1, 1)
            row["efficiency"] = row["data_parallel"] / devices / alone
            rows.append(row)
    return rows


# Images a second by number of devices. Sources in the README of this folder.
PUBLISHED = {
    "P100 DGX-1, TensorFlow 2017, 512 a device": {
        "batch": 512,
        "rates": {1: 2987, 2: 5658, 4: 10509, 8: 17822},
    },
    "K80 GCE, TensorFlow 2017, 512 a device": {
        "batch": 512,
        "rates": {1: 656, 8: 4640},
    },
}


def predicted(entry):
    """Fit the rate on one device and the link on the next count; predict the rest."""
    counts = sorted(entry["rates"])
    batch, rates = entry["batch"], entry["rates"]
    alone = batch / rates[1]
    second = counts[1]
    lost = second * batch / rates[second] - alone
    link = 2 * (second - 1) / second * 4 * PARAMETERS / lost
    result = {}
    for count in counts[2:]:
        ring = 2 * (count - 1) / count * 4 * PARAMETERS / link
        ours = count * batch / (alone + ring)
        result[count] = {
            "predicted": ours,
            "published": rates[count],
            "error": ours / rates[count] - 1,
        }
    return {"link_gigabytes_per_second": link / 1e9, "predictions": result}


# --- This machine ---------------------------------------------------------------------


def measured_rate(devices, data, tower, batch, processes=1):
    """Images a second of the benchmark's own training loop, in fresh processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                f"--loop={data},{tower},{batch}",
                *([f"--join={port},{processes},{index}"] if processes > 1 else []),
            ],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    told = [process.communicate()[0] for process in started]
    for process in started:
        if process.returncode:
            raise RuntimeError(f"a process ended with {process.returncode}")
    return json.loads(told[0].splitlines()[-1])


def loop(text):
    """One process of a measurement."""
    import statistics
    import time

    import jax
    import numpy as np
    from jax.sharding import NamedSharding

    from alexnet_jax import mesh as meshes
    from alexnet_jax import optimizer, step
    from alexnet_jax.model import AlexNet

    data, tower, batch = map(int, text.split(","))
    mesh = meshes.open_mesh(towers=2, data=data, tower=tower)
    share, shares = meshes.data_share(mesh)
    model, size = AlexNet(num_classes=1000), 224
    schedule = optimizer.make_schedule(steps_per_epoch=1000)
    sgd = optimizer.momentum_sgd(schedule)
    state = step.init_state(model, sgd, mesh, size, 0)
    train = step.make_train_step(model, sgd, schedule, mesh, 0)
    rng = np.random.default_rng(share)
    local = batch // shares
    host = {
        "image": rng.integers(0, 256, (local, size, size, 3), np.uint8),
        "label": rng.integers(0, 1000, local, np.int32),
        "colour_shift": rng.normal(0, 9, (local, 3)).astype(np.float32),
    }
    place = NamedSharding(mesh, meshes.EXAMPLES)
    arrays = {
        name: jax.make_array_from_process_local_data(place, array)
        for name, array in host.items()
    }
    mean = np.full((size, size, 3), 120, np.float32)
    mean = jax.device_put(mean, step.replicated(mesh))
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        state, metrics = train(state, arrays, mean)
        jax.block_until_ready((state.params, metrics))
        times.append(time.perf_counter() - begin)
    seconds = statistics.median(times[2:])
    print(json.dumps({"rate": batch / seconds, "seconds": times[2:]}))


SETTINGS = {
    "one device": (1, 1, 1, 1),
    "two virtual devices, a tower each": (2, 1, 2, 1),
    "two virtual devices, half the batch each": (2, 2, 1, 1),
    "two processes, a tower each": (1, 1, 2, 2),
    "two processes, half the batch each": (1, 2, 1, 2),
}


def measure(batch):
    """What is measured here beside the model's lower bound.

    Virtual devices and processes share the two cores, so compute does not shrink: the
    model takes it from one device, and adds the towers' traffic at the speed that the
    sum of the gradients was measured to have.
    """
    measured = {}
    for name, (devices, data, tower, processes) in SETTINGS.items():
        measured[name] = measured_rate(devices, data, tower, batch, processes)
        print(f"{name}: {measured[name]['rate']:.1f} images/s", file=sys.stderr)
    alone = batch / measured["one device"]["rate"]
    link = {
        "devices": _link(measured, "two virtual devices, half the batch each", batch),
        "processes": _link(measured, "two processes, half the batch each", batch),
    }
    traffic = 2 * 2 * batch * FEATURES * 4
    for kind, name in (
        ("devices", "two virtual devices, a tower each"),
        ("processes", "two processes, a tower each"),
    ):
        seconds = alone + (traffic / link[kind] if link[kind] else 0.0)
        measured[name]["model"] = batch / seconds
    return {"batch": batch, "link_bytes_per_second": link, "measured": measured}


def _link(measured, name, batch):
    """Bytes a second of the gradients' sum; None where it cost nothing measurable."""
    lost = batch / measured[name]["rate"] - batch / measured["one device"]["rate"]
    return 2 * 4 * PARAMETERS / lost if lost > 0 else None


def show(rows):
    print(
        f"{'devices':>8} {'batch':>8} {'data parallel':>14} {'towers':>12} {'eff.':>5}"
    )
    for row in rows:
        towers = f"{row['towers']:12,.0f}" if row["towers"] else " " * 12
        print(
            f"{row['devices']:8} {row['batch']:8,} {row['data_parallel']:14,.0f} "
            f"{towers} {row['efficiency']:5.0%}"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true", help="this machine as well")
    parser.add_argument("--batch", type=int, default=32, help="of the measured steps")
    parser.add_argument("--output", type=Path, help="folder for the raw results")
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    parser.add_argument("--join", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.loop and given.join:
        from alexnet_jax import processes

        port, count, index = map(int, given.join.split(","))
        processes.start(f"127.0.0.1:{port}", count, index)
        with processes.together():
            loop(given.loop)
        return
    if given.loop:
        loop(given.loop)
        return
    machines = {"H100 NVLink": H100, "H100 hosts": H100_HOSTS}
    result = {"benchmark": "scaling", "tables": {}, "even_batch": {}, "published": {}}
    for name, machine in machines.items():
        rows = table(name, machine, (128, 1024))
        result["tables"][name] = rows
        result["even_batch"][name] = even_batch(machine)
        print(f"{name}: {machine.source}")
        show(rows)
        print(f"two devices: towers are faster up to batch {even_batch(machine)}\n")
    for name, entry in PUBLISHED.items():
        result["published"][name] = predicted(entry)
        print(name, json.dumps(result["published"][name]))
    if given.measure:
        result["here"] = measure(given.batch)
    result.update(harness.machine("jax"))
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
