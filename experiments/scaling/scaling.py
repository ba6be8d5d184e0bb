"""How long is a training step on 1 to 1,024 devices, and when do towers pay?

A step on a mesh of `data` x `tower` devices is the sum of four times:

    compute     images of a device / its speed, for its share of the towers
    update      the parameters of a device, read and written, / memory bandwidth
    exchange    the features that towers exchange, forward and back (8 collectives)
    all-reduce  gradients of a device over `data` devices, by a ring or a tree

    python experiments/scaling/scaling.py --output=experiments/scaling

prints one table for each machine, what the model predicts for published runs (fitted
on the smallest of each series alone), what it predicts for a small batch of one device
(fitted on a large one alone), and the batch up to which two devices are faster as two
towers than as two halves of the batch. With `--measure` it also measures this machine:
its step on one device, on meshes (1, 2) and (2, 1) of virtual devices, and on two
processes, and compares.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path


sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[1] / "benchmarks"),
]

import harness


PARAMETERS = 60_965_224
# Features of an image that cross the border of the towers, each way, forward: half of
# pool2, of pool5, fc6 and fc7. Their gradients cross it in the backward pass.
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


# Images a second by number of devices, as published with TensorFlow's benchmarks.
PUBLISHED = {
    "P100 DGX-1, TensorFlow 2017, 512 a device": {
        "batch": 512,
        "rates": {1: 2987, 2: 5658, 4: 10509, 8: 17822},
    },
}


# Images a second of one device by batch, bfloat16, and its memory's bytes a second by
# the data sheet; `experiments/accelerator/` has the raw results.
ALONE = {
    "H100, XLA, commit 2326e68": {
        "memory": 3.35e12,
        "rates": {1024: 27003, 128: 20314},
    },
    "H100, fused by hand": {"memory": 3.35e12, "rates": {1024: 64589, 128: 37192}},
    "H200, XLA, conv1 folded": {"memory": 4.8e12, "rates": {1024: 43719, 128: 26667}},
}


def small_batch(entry):
    """Fit the speed on the largest batch of one device; predict the smaller ones."""
    rates = entry["rates"]
    largest = max(rates)
    update = FLOATS_OF_UPDATE * 4 * PARAMETERS / entry["memory"]
    image = (largest / rates[largest] - update) / largest
    result = {}
    for batch in rates:
        if batch != largest:
            ours = batch / (batch * image + update)
            result[batch] = {
                "predicted": ours,
                "measured": rates[batch],
                "error": ours / rates[batch] - 1,
            }
    return result


def predicted(entry):
    """Fit the speed on one device and the link on the next count; predict the rest."""
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
    given = parser.parse_args()
    machines = {"H100 NVLink": H100, "H100 hosts": H100_HOSTS}
    result = {
        "benchmark": "scaling",
        "tables": {},
        "even_batch": {},
        "alone": {},
        "published": {},
    }
    for name, machine in machines.items():
        rows = table(name, machine, (128, 1024))
        result["tables"][name] = rows
        result["even_batch"][name] = even_batch(machine)
        print(f"{name}: {machine.source}")
        show(rows)
        print(f"two devices: towers are faster up to batch {even_batch(machine)}\n")
    for name, entry in ALONE.items():
        result["alone"][name] = small_batch(entry)
        print(name, json.dumps(result["alone"][name]))
    for name, entry in PUBLISHED.items():
        result["published"][name] = predicted(entry)
        print(name, json.dumps(result["published"][name]))
    if given.measure:
        import here

        result["here"] = here.measure(given.batch, PARAMETERS, FEATURES)
    result.update(harness.machine("jax"))
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
