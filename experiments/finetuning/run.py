"""What does a pretrained network bring on few photographs, and how is it fine-tuned?

A network learns five classes of Imagenette. Others then learn the other five, from 20,
from 100 and from all training images of each class: from random initial values
(`scratch`), and from the first network with the config for any folder (`default`) and
with the recipe of `--config=finetune` (`recipe`). The last checkpoint is evaluated on
Imagenette's validation images, which choose nothing: what a run validates, and what
`--choose` compares, are 100 training images of each class that no network learns.

    python experiments/finetuning/run.py --data=PREPARED --runs=FOLDER --output=FOLDER
        [--ways scratch default recipe] [--images 20 100 all] [--seeds 0 1 2]
        [--width=1] [--choose NAME ...] [--minutes=N] [--quick]

PREPARED is Imagenette, prepared with --size=112. A run is a line of
FOLDER/finetuning.jsonl as soon as it ends, of FOLDER/choice.jsonl with `--choose`, and
is not repeated: the same command continues where it was cut, or adds what is missing.
`--quick` shows that it works.
"""

import argparse
import dataclasses
import itertools
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import jax
import numpy as np

from alexnet_jax import load_config
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.sources.arrays import ArraySource, array_dataset
from alexnet_jax.distributed import placement
from alexnet_jax.inference.trained import open_trained
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import Conv
from alexnet_jax.nn.presets import CODE2012
from alexnet_jax.runs.config_file import ConfigDict
from alexnet_jax.runs.overrides import override
from alexnet_jax.runs.setup import Setup, build_setup
from alexnet_jax.runs.validation import make_validation
from alexnet_jax.runtime import cli, progress

import arrays
import harness
from choices import CHOICES, Choice
from commands import narrow


# 99 of 112 pixels, as 224 are of 256.
CROP = 99
FIRST, OTHER = tuple(range(5)), tuple(range(5, 10))
# Training images of each class that no network learns, and those of them that a run
# validates: the default config validates after every epoch.
HELD_OUT, VALIDATED = 100, 20
WAYS = {
    "scratch": ("folder", False),
    "default": ("folder", True),
    "recipe": ("finetune", True),
}
# Of the pretraining: small batches, since there is time for few epochs.
PRETRAINING = [
    "--config.train.batch_size=32",
    "--config.schedule.kind=cosine",
    "--config.train.save_steps=100",
]
IDENTITY = ("way", "images", "seed", "width", "epochs_of_pretraining", "set")
# Images and labels.
Images = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Photographs:
    """Images of some classes, in memory, by what they are for."""

    names: tuple[str, ...]
    learned: Images
    held_out: Images
    test: Images


def of_classes(dataset: Dataset, split: str, classes: Sequence[int]) -> Images:
    """The images of some classes, which are numbered from 0."""
    source = arrays.source_of(dataset, split)
    chosen = np.isin(source.labels, classes)
    labels = np.searchsorted(classes, source.labels[chosen]).astype(np.int32)
    return source.images[chosen], labels


def first_of_each(images: Images, count: int, seed: int) -> tuple[Images, Images]:
    """So many images of each class in an order of a seed, and the others."""
    pixels, labels = images
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    taken = rank < count
    return (pixels[taken], labels[taken]), (pixels[~taken], labels[~taken])


def photographs(dataset: Dataset, classes: Sequence[int], held_out: int) -> Photographs:
    """The images of some classes; which are held out is the same in every run."""
    train = of_classes(dataset, "train", classes)
    held, learned = first_of_each(train, held_out, seed=2012)
    names = tuple(dataset.class_names[label] for label in classes)
    return Photographs(names, learned, held, of_classes(dataset, "validation", classes))


def made(names: Sequence[str], learned: Images, validated: Images) -> Dataset:
    """A data set in memory."""
    parts = {"train": learned, "validation": validated}
    return array_dataset(
        {split: pixels for split, (pixels, _) in parts.items()},
        {split: labels for split, (_, labels) in parts.items()},
        names,
    )


def config_of(name: str, given: Any, changes: Sequence[str]) -> ConfigDict:
    """A config of the package at the size of these images."""
    config = load_config(name)
    own = ["data.crop=67", "train.steps=2", "train.batch_size=8"]
    rows: Mapping[str, float] = narrow(CODE2012)
    if not given.quick:
        own, rows = [f"data.crop={CROP}"], widths(given.width)
    own += [f"model.layers.{key}={value}" for key, value in rows.items()]
    override(config, [*changes, *(f"--config.{text}" for text in own)])
    return config


def widths(width: float) -> dict[str, float]:
    """The rows of the 2012 code's network of another width, by `LAYER.KEY`, with
    initial kernels that leave the size of a signal as it is."""
    rows: dict[str, float] = {}
    inputs = 1.0
    *hidden, head = CODE2012
    for name in hidden:
        row = CODE2012[name]
        key = "channels" if isinstance(row, Conv) else "width"
        rows[f"{name}.{key}"] = round(width * getattr(row, key))
        rows[f"{name}.kernel_std"] = row.kernel_std / math.sqrt(inputs)
        inputs = width
    rows[f"{head}.kernel_std"] = CODE2012[head].kernel_std / math.sqrt(inputs)
    return rows


def pretrained(given: Any, dataset: Dataset) -> Path:
    """The work directory of the network that has learned the first classes."""
    workdir = given.runs / f"pretrained-{given.width:g}-{given.epochs:g}"
    classes = photographs(dataset, FIRST, 0)
    data = made(classes.names, classes.learned, classes.test)
    # Validated at its end alone.
    changes = [*PRETRAINING, f"--config.train.epochs={given.epochs}"]
    changes += [f"--config.train.validate_steps={10**6}"]
    setup = build_setup(config_of("folder", given, changes), data)
    experiment.fit(setup, workdir)
    return workdir


def measured(setup: Setup, workdir: Path, test: Images) -> dict[str, float]:
    """Loss and errors of a run's last checkpoint on images it has not seen."""
    network, mesh = open_trained(workdir, "latest"), setup.mesh
    splits = {**setup.pipeline.dataset.splits, "validation": ArraySource(*test)}
    dataset = dataclasses.replace(setup.pipeline.dataset, splits=splits)
    pipeline = dataclasses.replace(setup.pipeline, dataset=dataset)
    assert isinstance(setup.model, AlexNet)
    validate = make_validation(model=setup.model, mesh=mesh, pipeline=pipeline)
    mean = jax.device_put(network.mean, placement.replicated(mesh))
    return validate(network.params(mesh), mean, lambda: None)


def one_run(
    given: Any, name: str, config: ConfigDict, data: Dataset, test: Images
) -> dict[str, Any]:
    """Train and evaluate; the run's files go when it has ended."""
    workdir = given.runs / name
    setup = build_setup(config, data)
    begin = time.monotonic()
    if experiment.fit(setup, workdir) is None:
        # Diverged.
        errors = {"loss": None, "top1_error": 1 - 1 / len(data.class_names)}
    else:
        errors = measured(setup, workdir, test)
    shutil.rmtree(workdir)
    plan = setup.plan
    return {
        "training_images": plan.examples,
        "batch_size": plan.batch_size,
        "steps": plan.steps,
        "images_seen": plan.steps * plan.batch_size,
        "learning_rate": setup.config["schedule"]["learning_rate"],
        "examples": len(test[1]),
        "top1_error": errors["top1_error"],
        "loss": errors["loss"],
        "seconds": round(time.monotonic() - begin, 1),
    }


def asked(given: Any) -> list[tuple[str, Choice]]:
    """The ways to train, by name: a config, whether it starts from the pretrained
    network, and what is changed."""
    if given.choose:
        return [(name, CHOICES[name]) for name in given.choose]
    return [(way, Choice(*WAYS[way])) for way in given.ways]


def measure(given: Any, path: Path) -> None:
    """Every run that has no line yet, while there is time."""
    begin = time.monotonic()
    dataset = arrays.chosen(given, given.parser, quick_size=77)
    source = pretrained(given, dataset)
    held_out, validated = (4, 2) if given.quick else (HELD_OUT, VALIDATED)
    classes = photographs(dataset, OTHER, held_out)
    what = {
        "width": given.width,
        "epochs_of_pretraining": given.epochs,
        "set": "digits" if given.quick else dataset.fingerprint[:12],
    }
    on = classes.held_out if given.choose else classes.test
    few, _ = first_of_each(classes.held_out, validated, seed=0)
    for images, seed, (way, choice) in itertools.product(
        given.images, given.seeds, asked(given)
    ):
        name = {"way": way, "images": images, "seed": seed, **what}
        if any(name.items() <= line.items() for line in experiment.kept(path)):
            continue
        if time.monotonic() - begin > 60 * given.minutes:
            progress.say("the time is up; the same command continues from here")
            return
        count = len(classes.learned[1]) if images == "all" else int(images)
        learned, _ = first_of_each(classes.learned, count, seed)
        changes = [*choice.changes, f"--config.train.seed={seed}"]
        if choice.starts:
            changes.append(f"--config.train.init_from={source}")
        if given.choose:
            changes.append(f"--config.train.validate_steps={10**6}")
        line = {
            **name,
            "choosing": bool(given.choose),
            **one_run(
                given,
                f"{'choice-' if given.choose else ''}{way}-{images}-{seed}",
                config_of(choice.config, given, changes),
                made(classes.names, learned, few),
                on,
            ),
            **harness.machine("jax", "jaxlib", "flax", "optax"),
        }
        experiment.keep(path, line, *IDENTITY)
        progress.say(
            f"{way}, {images} images a class, seed {seed}: "
            f"{100 * line['top1_error']:.1f} %, {line['seconds']:.0f} s"
        )


def table(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """The errors of all seeds, by way and number of images."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        of_way = found.setdefault(line["way"], {})
        of_way.setdefault(line["images"], []).append(round(line["top1_error"], 4))
    return found


def main() -> None:
    parser = experiment.parser(
        __doc__, data="PREPARED", quick="two steps of each way, on digits"
    )
    add = parser.add_argument
    add("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    add("--images", nargs="+", default=["20", "100", "all"], help="of each class")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--width", type=float, default=1.0, help="of the network's layers, of 1")
    add("--epochs", type=float, default=10.0, help="of the pretraining")
    add("--choose", nargs="+", choices=tuple(CHOICES), default=[], metavar="NAME")
    add("--minutes", type=float, default=math.inf, help="after these no run starts")
    given = parser.parse_args(namespace=argparse.Namespace(parser=parser))
    if given.quick:
        given.images, given.seeds = ["4"], [0]
    name = "choice" if given.choose else "finetuning"
    path = given.output / f"{name}.jsonl"
    measure(given, path)
    progress.print_result(
        {"experiment": "finetuning", "top1_error": table(experiment.kept(path))}
    )


if __name__ == "__main__":
    cli.run_command(main)
