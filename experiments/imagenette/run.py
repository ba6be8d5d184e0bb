"""What error does the 2012 code's network reach on Imagenette, and with ten crops?

Trains `configs/imagenet.py` at full size on Imagenette, ten classes of ImageNet, for a
few epochs, and evaluates the last checkpoint with one crop and with ten. It measures
the error of each of the ten views alone, and the error as they are added: the centre,
its flip, then corner by corner with its flip.

    python experiments/imagenette/run.py --data=PREPARED --runs=FOLDER --output=FOLDER
                                         [--epochs=12] [--variant=code2012] [--quick]

FOLDER of `--runs` keeps the run, and the same command resumes it. `--quick` shows that
it works: some steps of the quickstart.
"""

import json
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import experiment


# isort: split

import numpy as np
from scipy.special import softmax

from alexnet_jax.runs.metrics_file import METRICS_FILE
from alexnet_jax.runtime import cli, progress

import harness
from commands import command, quick


# Places among the ten views of `preprocess.cut_views`: centre, corners, their flips.
VIEWS = {
    "centre": 2,
    "mirrored centre": 7,
    "top left": 0,
    "mirrored top left": 5,
    "top right": 1,
    "mirrored top right": 6,
    "bottom left": 3,
    "mirrored bottom left": 8,
    "bottom right": 4,
    "mirrored bottom right": 9,
}
STEPS_A_POINT = 37


def by_view(path):
    """Each view's top-1 error alone, and that of the views up to it together."""
    with np.load(path, allow_pickle=False) as stored:
        logits, labels = stored["logits"][:, 0].astype(np.float64), stored["label"]
    probabilities = softmax(logits, axis=-1)
    known = {name: place for name, place in VIEWS.items() if place < logits.shape[1]}

    def error(places):
        votes = probabilities[:, places].mean(axis=1)
        return round(float(np.mean(votes.argmax(axis=-1) != labels)), 5)

    places = list(known.values())
    return [
        {"view": name, "alone": error([place]), "up_to_it": error(places[: n + 1])}
        for n, (name, place) in enumerate(known.items())
    ]


def curve(path):
    """Validations, and means of training loss and error over some steps."""
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    learned = [line for line in lines if line["split"] == "train"]
    for start in range(0, len(learned), STEPS_A_POINT):
        part = learned[start : start + STEPS_A_POINT]
        means = {
            name: round(float(np.mean([line[name] for line in part])), 5)
            for name in ("loss", "top1_error", "learning_rate")
        }
        yield {"step": part[-1]["step"], "split": "train", **means}
    yield from (line for line in lines if line["split"] == "validation")


def trained_by(workdir):
    """The provenance of the run's start and of each resume."""
    starts = json.loads((workdir / "run.json").read_text())["starts"]
    return [
        {name: start[name] for name in ("time", "commit", "python", "versions")}
        for start in starts
    ]


def main():
    parser = experiment.parser(
        __doc__, data="PREPARED", quick="some steps of the quickstart"
    )
    parser.add_argument("--variant", default="code2012")
    parser.add_argument("--epochs", type=float, default=12.0)
    given = parser.parse_args()
    workdir = given.runs / f"imagenette-{given.variant}"
    if given.quick:
        arguments = [
            f"--config=configs/quickstart.py:{given.variant}",
            *quick(given.variant),
        ]
    elif given.data is None:
        parser.error("give --data=PREPARED, or --quick")
    else:
        arguments = [
            f"--config=configs/imagenet.py:{given.variant}",
            f"--config.data.path={given.data}",
            "--config.train.batch_size=64",
            f"--config.train.epochs={given.epochs}",
            "--config.train.save_steps=75",
            "--config.train.validate_steps=296",
            f"--config.schedule.epochs=({given.epochs * 5 / 6},)",
        ]
    command("main", *arguments, f"--workdir={workdir}")
    given.output.mkdir(parents=True, exist_ok=True)
    results = []
    for views in (1, 10):
        file = given.runs / f"predictions-{views}.npz"
        # Of an earlier run of this script.
        file.unlink(missing_ok=True)
        results.append(
            command(
                "evaluate",
                f"--workdir={workdir}",
                "--checkpoint=latest",
                f"--views={views}",
                f"--predictions={file}",
            )
        )
    done = {
        "experiment": "imagenette",
        "variant": given.variant,
        "evaluations": [
            {name: result[name] for name in result if name != "checkpoints"}
            for result in results
        ],
        "by_view": by_view(file),
        "trained_by": trained_by(workdir),
        **harness.machine("jax", "flax", "optax"),
    }
    lines = [json.dumps(line) for line in (*curve(workdir / METRICS_FILE), done)]
    path = given.output / f"{given.variant}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    progress.print_result(done)


if __name__ == "__main__":
    cli.run_command(main)
