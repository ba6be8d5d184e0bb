"""Does inference on two virtual devices lose speed against one, on the same cores?

`evaluate`, `predict` and `features` split each batch over all devices. On a CPU that
shows itself as two, each computes half the rows, and the whole should take no longer.

    python experiments/benchmarks/virtual_devices.py --output=FOLDER

The 2012 network at its full size with random weights evaluates batches of the host,
by the loop that those commands share. Each side is a process, started once, that asks
for huge pages as `evaluate` and `features` do; they run in turn. `ratio` is the speed
on two devices over that on one; `difference` is the largest between their logits,
relative to the largest logit.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

from alexnet_jax.runtime import hugepages


if any(text.startswith("--devices=") for text in sys.argv):
    # As the commands do, before the imports that take long.
    hugepages.use()

import numpy as np

import harness
from sides import CLASSES, SIZE


def serve(devices, batch_size, dtype):
    """A side: say its first logits, then measure whenever a line comes."""
    import jax
    import optax

    from alexnet_jax.distributed import mesh as meshes
    from alexnet_jax.distributed import placement
    from alexnet_jax.nn.alexnet import AlexNet
    from alexnet_jax.training import evaluation, step

    mesh = meshes.open_mesh(towers=2, tower=1, virtual_cpu_devices=devices)
    model = AlexNet(num_classes=CLASSES, dtype=dtype)
    params = step.init_state(model, optax.identity(), mesh, SIZE, 0).params
    grey = np.full((SIZE, SIZE, 3), 120, np.float32)
    mean = jax.device_put(grey, placement.replicated(mesh))
    evaluate = step.make_eval_step(model, mesh, crop=SIZE, views=1)
    host = {
        "image": np.random.default_rng(0).integers(
            0, 256, (batch_size, SIZE, SIZE, 3), dtype=np.uint8
        ),
        "label": np.zeros(batch_size, np.int32),
        "mask": np.ones(batch_size, bool),
    }

    def logits_of(batch):
        return {"logits": evaluate(params, batch, mean)[1]}

    def run(batches):
        loop = evaluation.over_batches(logits_of, [host] * batches, mesh)
        return [results["logits"] for _, results in loop][-1]

    print(json.dumps(run(2).tolist()), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        run(int(line))
        print(int(line) * batch_size / (time.perf_counter() - begin), flush=True)


class Side:
    """A side in its process."""

    def __init__(self, devices, given):
        self._batches = max(1, given.images // given.batch_size)
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        environment.pop("JAX_NUM_CPU_DEVICES", None)
        self._process = subprocess.Popen(
            [
                *(sys.executable, __file__, f"--devices={devices}"),
                *(f"--batch_size={given.batch_size}", f"--dtype={given.dtype}"),
            ],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.logits = np.array(self._read())

    def _read(self):
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with {self._process.wait()}")
        return json.loads(line)

    def rate(self):
        print(self._batches, file=self._process.stdin, flush=True)
        return self._read()

    def close(self):
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=int, default=256, help="in a round and side")
    add("--batch_size", type=int, default=64)
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--rounds", type=int, default=9)
    add("--output", type=Path, help="folder for the raw results")
    add("--devices", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.devices:
        serve(given.devices, given.batch_size, given.dtype)
        return
    sides = {"one": Side(1, given), "two": Side(2, given)}
    measured = harness.in_turn(
        {name: side.rate for name, side in sides.items()}, given.rounds
    )
    one, two = (side.logits for side in sides.values())
    for side in sides.values():
        side.close()
    result = {
        "benchmark": "virtual_devices",
        "unit": "images per second",
        "dtype": given.dtype,
        "batch_size": given.batch_size,
        "medians": harness.medians(measured),
        "ratio": harness.ratio(measured, "two", "one")["median"],
        "spread": harness.ratio(measured, "two", "one"),
        "difference": float(np.abs(two - one).max() / np.abs(one).max()),
        "rounds": measured,
        **harness.machine("jax"),
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
