"""The scaling model's numbers on this machine: see `scaling.py --measure`.

Run as a script, this is one process of a measurement.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "experiments" / "benchmarks")]

import jax
import numpy as np
from jax.sharding import NamedSharding

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import multihost
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.training import optimizer, step
from alexnet_jax.training.schedule import make_schedule

import sides


def measured_rate(devices, data, tower, batch, count=1):
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
                *([f"--join={port},{count},{index}"] if count > 1 else []),
            ],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    outputs = [process.communicate()[0] for process in started]
    for process in started:
        if process.returncode:
            raise RuntimeError(f"a process ended with {process.returncode}")
    return json.loads(outputs[0].splitlines()[-1])


def loop(text):
    """One process of a measurement."""
    data, tower, batch = map(int, text.split(","))
    mesh = meshes.open_mesh(towers=2, data=data, tower=tower)
    _, shares = meshes.data_share(mesh)
    model, size = AlexNet(num_classes=1000), 224
    schedule = make_schedule(steps_per_epoch=1000)
    sgd = optimizer.momentum_sgd(schedule)
    state = step.init_state(model, sgd, mesh, size, 0)
    train = step.make_train_step(model, sgd, schedule, mesh, 0)
    host = sides.host_batch(batch // shares)
    place = NamedSharding(mesh, meshes.EXAMPLES)
    arrays = {
        name: jax.make_array_from_process_local_data(place, array)
        for name, array in host.items()
    }
    mean = np.full((size, size, 3), 120, np.float32)
    mean = jax.device_put(mean, meshes.replicated(mesh))
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


def measure(batch, parameters, features):
    """What is measured here, next to the model's lower bound.

    Virtual devices and processes share the two cores, so compute does not shrink: the
    model takes it from one device, and adds the towers' traffic at the speed that the
    sum of the gradients was measured to have.
    """
    measured = {}
    for name, (devices, data, tower, count) in SETTINGS.items():
        measured[name] = measured_rate(devices, data, tower, batch, count)
        print(f"{name}: {measured[name]['rate']:.1f} images/s", file=sys.stderr)
    alone = batch / measured["one device"]["rate"]
    link = {
        "devices": _link(
            measured, "two virtual devices, half the batch each", batch, parameters
        ),
        "processes": _link(
            measured, "two processes, half the batch each", batch, parameters
        ),
    }
    traffic = 2 * 2 * batch * features * 4
    for kind, name in (
        ("devices", "two virtual devices, a tower each"),
        ("processes", "two processes, a tower each"),
    ):
        seconds = alone + (traffic / link[kind] if link[kind] else 0.0)
        measured[name]["model"] = batch / seconds
    return {"batch": batch, "link_bytes_per_second": link, "measured": measured}


def _link(measured, name, batch, parameters):
    """Bytes a second of the gradients' sum; None where it cost nothing measurable."""
    lost = batch / measured[name]["rate"] - batch / measured["one device"]["rate"]
    return 2 * 4 * parameters / lost if lost > 0 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", required=True, help="DATA,TOWER,BATCH")
    parser.add_argument("--join", help="PORT,PROCESSES,PROCESS")
    given = parser.parse_args()
    if not given.join:
        loop(given.loop)
        return
    port, count, index = map(int, given.join.split(","))
    multihost.start(f"127.0.0.1:{port}", count, index)
    with multihost.together():
        loop(given.loop)


if __name__ == "__main__":
    main()
