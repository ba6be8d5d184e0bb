"""Do networks that generalise also learn random labels and shuffled pixels?

The four networks of Zhang et al. 2017 on CIFAR-10 (28x28, the centre of 32x32, each
image standardised): with true labels, with and without random crops and weight decay;
with some or all training labels replaced at random; with pixels in another order. Test
errors are by the true labels.

    python experiments/generalisation/run.py --data=CIFAR --runs=FOLDER
        --output=FOLDER [--networks NAME ...] [--rows NAME ...] [--epochs=N] [--quick]

CIFAR is a prepared data set of 32x32, or a file by `arrays.save_arrays`. FOLDER of
`--runs` keeps every run, and the same command resumes it, also with more epochs. A run
ends early after three epochs without a training error. `--output` gets a file of
results for each network; rows of another command stay in it. `--quick` shows that it
works: an epoch on digits.
"""

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax.data import statistics
from alexnet_jax.data.sources.randomized import corrupt
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.runtime import cli, progress
from alexnet_jax.training import losses
from alexnet_jax.training.preprocess import cut_views

import arrays
import harness
import in_memory
from figures import draw
from zhang import NETWORKS


CROP = 28
BATCH = 128
# The paper's appendix A. It doesn't say the weight decay; this is AlexNet's.
RATES = {"mlp": 0.01, "alexnet": 0.01, "inception": 0.1, "wide_resnet": 0.1}
RATE_DECAY = 0.95
MOMENTUM = 0.9
WEIGHT_DECAY = 0.0005
EPOCHS_WITHOUT_ERROR = 3

ROWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"decay": True},
    "crop": {"crop": True},
    "crop and decay": {"crop": True, "decay": True},
    "20 % random labels": {"random_labels": 0.2},
    "40 % random labels": {"random_labels": 0.4},
    "60 % random labels": {"random_labels": 0.6},
    "80 % random labels": {"random_labels": 0.8},
    "random labels": {"random_labels": 1.0},
    "shuffled pixels": {"pixels": "shuffled"},
    "random pixels": {"pixels": "random"},
}


class State(NamedTuple):
    """What training carries from step to step."""

    step: jax.Array
    params: Any
    statistics: Any
    opt_state: Any


def make_step(network, optimizer, rate):
    """The jitted train step: from state and batch to state and metrics."""

    @jax.jit
    def step(state, batch):
        labels = batch["label"]

        def loss(params):
            logits, changed = network.apply(
                {"params": params, "batch_stats": state.statistics},
                batch["image"].astype(jnp.float32),
                learning=True,
                mutable=["batch_stats"],
            )
            mask = jnp.ones(len(labels), jnp.bool_)
            sums = losses.sums(jax.nn.log_softmax(logits), labels, mask)
            return sums["loss"] / len(labels), (sums, changed.get("batch_stats", {}))

        grads, (sums, statistics) = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**sums, "learning_rate": rate(state.step)}
        return State(state.step + 1, params, statistics, opt_state), metrics

    return step


def make_optimizer(rate, decay):
    """Momentum with decay of kernels, as the paper has it (TensorFlow's, PyTorch's)."""

    def kernels(params):
        return jax.tree.map(lambda array: array.ndim > 1, params)

    decayed = optax.add_decayed_weights(decay, kernels)
    return optax.chain(decayed, optax.sgd(rate, MOMENTUM))


def make_evaluation(network):
    """The jitted evaluation: from state and batch of whole images to sums."""

    @jax.jit
    def evaluate(state, batch):
        (centres,) = jnp.moveaxis(cut_views(batch["image"], crop=CROP, views=1), 1, 0)
        logits = network.apply(
            {"params": state.params, "batch_stats": state.statistics},
            centres.astype(jnp.float32),
            learning=False,
        )
        return losses.sums(jax.nn.log_softmax(logits), batch["label"], batch["mask"])

    return evaluate


def cut(dataset):
    """A data set of the centres, for rows without crops: the shuffled pixels are then
    those that the network sees."""
    splits = {
        name: dataclasses.replace(source, images=statistics.centre(source.images, CROP))
        for name, source in dataset.splits.items()
    }
    return dataclasses.replace(dataset, splits=splits, size=CROP, statistics=None)


def train(dataset, name, row, given):
    """Train a run to its end, and give its result."""
    what = ROWS[row]
    crops = what.get("crop", False)
    dataset = corrupt(
        dataset if crops else cut(dataset),
        random_labels=what.get("random_labels", 0.0),
        pixels=what.get("pixels", "true"),
        seed=given.seed,
    )
    splits = {n: arrays.held(source) for n, source in dataset.splits.items()}
    source = splits["train"]
    per_epoch = len(source) / BATCH
    network = NETWORKS[name](num_classes=len(dataset.class_names))
    rate = optax.exponential_decay(RATES[name], round(per_epoch), RATE_DECAY, 0, True)
    optimizer = make_optimizer(rate, WEIGHT_DECAY if what.get("decay") else 0.0)

    def initial():
        images = jnp.zeros((1, CROP, CROP, 3))
        variables = network.init(jax.random.key(given.seed), images, learning=True)
        params = variables["params"]
        statistics = variables.get("batch_stats", {})
        step = jnp.zeros((), jnp.int32)
        return State(step, params, statistics, optimizer.init(params))

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    initialise = jax.jit(initial, out_shardings=place)
    abstract = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place),
        jax.eval_shape(initial),
    )
    evaluate = make_evaluation(network)

    def measure(state, split):
        return in_memory.measure(
            lambda batch: evaluate(state, batch), splits[split], 1000, place
        )

    workdir = given.runs / f"{name}-{row}-{given.seed}".replace(" ", "_")
    state = in_memory.train(
        workdir,
        initial=initialise,
        abstract=abstract,
        train_step=make_step(network, optimizer, rate),
        batches_from=lambda start: arrays.train_batches(
            source,
            # Colours are not shifted here.
            Statistics(np.zeros(0), np.zeros(3), np.zeros((3, 3))),
            start,
            batch_size=BATCH,
            seed=given.seed,
            crop=CROP,
            crops=crops,
            flip=False,
        ),
        place=place,
        steps=round(given.epochs * per_epoch),
        steps_per_epoch=per_epoch,
        batch_size=BATCH,
        validate=lambda state: measure(state, "validation"),
        enough=lambda workdir: learned(workdir, per_epoch),
    )
    parameters = sum(array.size for array in jax.tree.leaves(state.params))
    return {
        "network": name,
        "row": row,
        "seed": given.seed,
        "parameters": parameters,
        "parameters_per_example": round(parameters / len(source), 1),
        "epochs": round(int(state.step) / per_epoch, 2),
        "finished": learned(workdir, per_epoch),
        "train": measure(state, "train"),
        "test": measure(state, "validation"),
        "curve": curve(workdir, per_epoch),
        **harness.machine("jax", "flax", "optax"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def curve(workdir, per_epoch):
    """For each epoch the mean loss and error of learning, and those of the test."""
    epochs = {}
    for line in in_memory.metrics_of(workdir, "train"):
        place = math.ceil(line["step"] / per_epoch)
        epochs.setdefault(place, []).append((line["loss"], line["top1_error"]))
    rows = {}
    for line in in_memory.metrics_of(workdir, "validation"):
        # A run that was extended later may end a step before the end of its epoch.
        epoch = round(line["step"] / per_epoch)
        of_test = line["loss"], line["top1_error"]
        numbers = (*np.mean(epochs[epoch], axis=0), *of_test)
        rows[epoch] = [epoch, *(round(float(number), 5) for number in numbers)]
    return list(rows.values())


def learned(workdir, per_epoch):
    """Whether the last epochs' learning was without an error."""
    steps = round(EPOCHS_WITHOUT_ERROR * per_epoch)
    last = in_memory.metrics_of(workdir, "train", last=steps)
    return len(last) == steps and not any(line["top1_error"] for line in last)


def main():
    parser = experiment.parser(__doc__, data="CIFAR", quick="an epoch on digits")
    add = parser.add_argument
    add("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    add("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    add("--epochs", type=float, default=100.0)
    add("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.quick:
        given.epochs = 1.0
    dataset = arrays.chosen(given, parser, quick_size=32)
    table = {}
    for name in given.networks:
        for row in given.rows:
            progress.say(f"{name}: {row}")
            result = train(dataset, name, row, given)
            path = given.output / f"{name}.jsonl"
            experiment.keep(path, result, "network", "row", "seed")
            table[f"{name}: {row}"] = {
                "epochs": result["epochs"],
                "train_error": result["train"]["top1_error"],
                "test_error": result["test"]["top1_error"],
            }
    draw(given.output)
    progress.print_result({"experiment": "generalisation", "table": table})


if __name__ == "__main__":
    cli.run_command(main)
