"""What do ensembles add: 5 networks, and 2 more pretrained on other classes?

Table 2 of the paper at the size of the quickstart. Five networks learn the digits 0 to
4 from different seeds. A network with a sixth convolution learns the digits 5 to 9, and
two runs fine-tune it on 0 to 4. Then the errors of every member, and of the first one,
two, ... seven together, by the unweighted mean of probabilities.

    python experiments/ensembles/run.py --runs=FOLDER --output=FOLDER [--quick]
        [--data=IMAGES --before=OTHER_IMAGES]

IMAGES and OTHER_IMAGES are class folders to be used instead of digits. FOLDER of
`--runs` keeps the runs, and the same command resumes them. `--quick` shows that it
works: a network and a pretrained one, some steps.
"""

import json
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from alexnet_jax.runtime import cli, progress

import harness
from commands import command, quick


def write_digits(folder, digits):
    """Class folders of some of scikit-learn's digits, half of them held out, so that
    some errors are left to compare."""
    pixels, labels = load_digits(return_X_y=True)
    images = np.reshape(pixels, (-1, 8, 8)) * (255 / 16)
    held_out = np.random.default_rng(2012).permutation(len(labels)) < len(labels) // 2
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label in digits:
            split = "validation" if held_out[number] else "train"
            place = folder / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            digit = Image.fromarray(image.astype(np.uint8)).convert("RGB")
            digit.save(place / f"{number}.png")


def train(given, name, data, *arguments, config, network):
    """Train one network on class folders; its work directory."""
    workdir = given.runs / name
    progress.say(name)
    command(
        "main",
        f"--config={config}",
        f"--workdir={workdir}",
        "--config.data.source=folder",
        f"--config.data.path={data}",
        *arguments,
        *(quick(network) if given.quick else ()),
    )
    return workdir


def train_members(given):
    """Train all networks; the work directories of the ensemble's members."""
    plain = {"config": "configs/quickstart.py", "network": "code2012"}
    members = [
        train(
            given,
            f"network-{seed}",
            given.data,
            f"--config.train.seed={seed}",
            **plain,
        )
        for seed in range(given.members)
    ]
    sixth = {"config": "configs/quickstart.py:conv6", "network": "conv6"}
    before = train(given, "before", given.before, **sixth)
    tuned = {"config": "experiments/ensembles/finetune.py", "network": "conv6"}
    return members + [
        train(
            given,
            f"with_past-{seed}",
            given.data,
            f"--config.train.seed={seed}",
            f"--config.train.init_from={before}",
            # Members of an ensemble subtract the same mean image.
            "--config.data.mean=dataset",
            **tuned,
        )
        for seed in range(given.with_past)
    ]


def main():
    parser = experiment.parser(__doc__, quick="two networks, some steps")
    add = parser.add_argument
    add("--data", type=Path, metavar="IMAGES", help="instead of the digits 0 to 4")
    add("--before", type=Path, metavar="OTHER_IMAGES", help="instead of 5 to 9")
    add("--members", type=int, default=5)
    add("--with_past", type=int, default=2)
    given = parser.parse_args()
    if given.quick:
        given.members, given.with_past = 1, 1
    if (given.data is None) != (given.before is None):
        parser.error("give --data and --before together, or neither")
    if given.data is None:
        given.data, given.before = given.runs / "zero_to_four", given.runs / "others"
        write_digits(given.data, range(5))
        write_digits(given.before, range(5, 10))

    members = train_members(given)
    results = [
        command(
            "evaluate",
            *(f"--workdir={workdir}" for workdir in members),
            *("--checkpoint=latest", f"--views={views}"),
        )
        for views in ((1,) if given.quick else (1, 10))
    ]
    done = {
        "experiment": "ensembles",
        "members": [workdir.name for workdir in members],
        "evaluations": [
            {key: result[key] for key in result if key != "checkpoints"}
            for result in results
        ],
        **harness.machine("jax", "flax", "optax"),
    }
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / "ensembles.json"
    path.write_text(json.dumps(done, indent=2) + "\n")
    progress.print_result(done)


if __name__ == "__main__":
    cli.run_command(main)
