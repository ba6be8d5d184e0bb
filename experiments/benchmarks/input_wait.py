"""How much of the train step's speed does the input cost?

The full network's train step at batch 32 on a prepared data set, in turn: on one batch
that stays on the devices, and on the batches of the input pipeline, which share the
cores with the step. `ratio` is the second's speed over the first's. Each pair begins
with a new reading of the data and leaves the first steps out: the buffer of prefetched
batches is then as full at the start of the measurement as at its end.
`input_wait_fraction` is what the trainer writes to metrics.jsonl: the fraction of time
spent waiting for a batch.

    python experiments/benchmarks/input_wait.py --data=PREPARED \
        --output=experiments/benchmarks/input_wait
"""

import argparse
import statistics
import sys
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

import jax

from alexnet_jax import train
from alexnet_jax.data import statistics as data_statistics
from alexnet_jax.data.loading import grain_datasets, pipeline, prefetch
from alexnet_jax.distributed import mesh, placement
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.training import optimizer, step
from alexnet_jax.training.schedule import make_schedule

import harness


STEPS_LEFT_OUT = 4


class Side:
    """The state that both sides train on, turn by turn."""

    def __init__(self, given):
        self.batch_size = given.batch_size
        self.pipeline = pipeline.open_pipeline(path=str(given.data))
        dataset = self.pipeline.dataset
        assert dataset.statistics is not None
        self.mesh = mesh.open_mesh(towers=2, data=1, tower=given.tower)
        model = AlexNet(num_classes=len(dataset.class_names))
        # So small that thousands of steps on one batch don't run away.
        schedule = make_schedule(steps_per_epoch=1000, learning_rate=1e-4)
        sgd = optimizer.momentum_sgd(schedule)
        self.state = step.init_state(model, sgd, self.mesh, self.pipeline.crop, 0)
        self.train = step.make_train_step(model, sgd, schedule, self.mesh, 0)
        mean = data_statistics.mean_crop(dataset.statistics, self.pipeline.crop)
        self.mean = jax.device_put(mean, placement.replicated(self.mesh))
        self.batches = grain_datasets.train_dataset(
            self.pipeline, dataset.statistics, batch_size=given.batch_size, seed=0
        )
        first = self.batches[0]
        assert first is not None
        self.fixed = placement.to_devices(first, self.mesh)

    def run(self, next_batch, count):
        """Images a second of `count` steps, and the fraction waited for batches."""
        waits, begin, previous = 0.0, 0.0, None
        for number in range(STEPS_LEFT_OUT + count):
            if number == STEPS_LEFT_OUT:
                jax.block_until_ready(previous)
                waits, begin = 0.0, time.perf_counter()
            batch, waited = next_batch()
            waits += waited
            self.state, metrics = self.train(self.state, batch, self.mean)
            # As the trainer does: it reads a step's metrics once the next has begun.
            jax.block_until_ready(previous)
            previous = metrics
        jax.block_until_ready((previous, self.state.params))
        seconds = time.perf_counter() - begin
        return count * self.batch_size / seconds, waits / seconds

    def on_fixed(self, count):
        return self.run(lambda: (self.fixed, 0.0), count)

    def on_data(self, count):
        with prefetch.read(self.pipeline, self.batches) as iterator:
            return self.run(lambda: train.timed_next(iterator, self.mesh), count)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a prepared data set")
    add("--batch_size", type=int, default=32)
    add("--tower", type=int, default=2, help="devices for the towers")
    add("--steps", type=int, default=8, help="measured in a round and side")
    add("--rounds", type=int, default=10)
    add("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", given.tower)
    side = Side(given)
    fractions = []

    def on_data():
        rate, fraction = side.on_data(given.steps)
        fractions.append(fraction)
        return rate

    side.on_fixed(1)
    measured = harness.in_turn(
        {"data": on_data, "fixed": lambda: side.on_fixed(given.steps)[0]}, given.rounds
    )
    ratio = harness.ratio(measured, "data", "fixed")
    result = {
        "benchmark": "input_wait",
        "unit": "images per second",
        "batch_size": given.batch_size,
        "medians": harness.medians(measured),
        "ratio": ratio["median"],
        "ratio_spread": [ratio["smallest"], ratio["largest"]],
        "input_wait_fraction": statistics.median(fractions),
        "input_wait_fractions": fractions,
        "rounds": measured,
        "devices": [str(device) for device in jax.devices()],
        **harness.machine("jax", "grain", "simplejpeg"),
    }
    harness.write(result, given.output)


if __name__ == "__main__":
    main()
