"""Restore a checkpoint, or several as an ensemble, and measure their errors."""

from alexnet_jax.runtime import cli, hugepages


if __name__ == "__main__":
    # Before the imports that take long, since it starts the process anew.
    hugepages.use()

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.inference.ensemble import combine, run_over
from alexnet_jax.inference.trained import Member, open_member
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import call, plain
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.cli import Parser
from alexnet_jax.runtime.errors import InputError


# The sources that are nothing without a path.
WITH_PATH = ("prepared", "folder", "imagenet", "tfds")


def evaluate(
    workdirs_given: Sequence[Path],
    *,
    views: int = 1,
    checkpoint: str | int = "best",
    split: str = "validation",
    mesh: tuple[int, int] | None = None,
    batch_size: int | None = None,
    data_path: str | None = None,
    predictions: Path | None = None,
) -> dict[str, Any]:
    """Measure one run, or several as an ensemble, on every example of a split once.

    Members and views count alike: their probabilities are averaged (section 4.1; the
    paper's ensembles likewise). Of an ensemble the result also has each member's own
    loss and errors, in `alone`, and those of its first one, two, ... members, in
    `first`.

    Args:
      workdirs_given: work directories; the first one's config says where the data are.
      views: 1 for the centre, 10 for corners, centre and their mirrors; the mirrors are
        left out if training was without.
      checkpoint: `best`, `latest` or a step.
      split: of the data.
      mesh: devices along data and tower; None as in the config.
      batch_size: examples at a time; None as in the config.
      data_path: where the data lie; None as in the config.
      predictions: a file to write every example's outputs to; they are kept in memory
        for it (2 GB a member for ImageNet's ten views).

    Returns:
      What the command prints.

    Raises:
      InputError: if something of it isn't there or doesn't fit together.
    """
    if predictions is not None and not predictions.absolute().parent.is_dir():
        raise InputError(
            f"--predictions={predictions} can't be written: its folder isn't there"
        )
    if batch_size is not None:
        meshes.check_batch(batch_size, 1, "--batch_size")
    # Devices come first: opening a checkpoint asks for them.
    configs = [plain(workdirs.read_config(workdir)) for workdir in workdirs_given]
    settings = dict(configs[0].get("mesh", {}))
    if mesh is not None:
        settings["data"], settings["tower"] = mesh
    towers = min(
        config.get("model", {}).get("towers", AlexNet.towers) for config in configs
    )
    devices = meshes.open_mesh(towers=towers, **settings)
    members = [open_member(workdir, checkpoint) for workdir in workdirs_given]
    first = members[0]
    for other in members[1:]:
        _check_alike(first, other, views)
    size = batch_size or first.config.get("eval", {}).get("batch_size", 128)
    meshes.check_batch(size, devices.shape["data"], "--batch_size")
    path = data_path or first.config["data"].get("path")
    pipelines_opened = [_open_pipeline(member, path) for member in members]
    for member, pipeline in zip(members, pipelines_opened, strict=True):
        theirs = pipeline.dataset.class_names
        if theirs != member.data.class_names:
            raise InputError(
                f"{member.workdir} was trained on other classes than the data have: "
                + _first_other_class(member.data.class_names, theirs)
            )
        if pipeline.dataset.size != member.data.size:
            raise InputError(
                f"{member.workdir} was trained on pictures stored at "
                f"{member.data.size} pixels a side, and these are stored at "
                f"{pipeline.dataset.size}"
            )
    outputs = [
        run_over(
            member,
            pipeline,
            split=split,
            views=views,
            batch_size=size,
            mesh=devices,
            keep_logits=predictions is not None,
        )
        for member, pipeline in zip(members, pipelines_opened, strict=True)
    ]
    labels = outputs[0].labels
    if any(not np.array_equal(labels, other.labels) for other in outputs):
        raise InputError("the members read different examples and make no ensemble")
    result, probabilities = combine(outputs, size)
    parts: dict[str, Any] = {}
    if len(members) > 1:
        places = range(len(members))
        alone = [combine(outputs[n : n + 1], size)[0] for n in places]
        between = [combine(outputs[:n], size)[0] for n in places[2:]]
        parts = {"alone": alone, "first": [alone[0], *between, result]}
    if outputs[0].views < views:
        progress.say("trained without mirror images: five crops, no mirrors")
    if predictions is not None:
        source = pipelines_opened[0].dataset.splits[split]
        kept = [output.logits for output in outputs]
        with predictions.open("wb") as file:
            np.savez(
                file,
                name=np.asarray([source.name(index) for index in range(len(source))]),
                label=labels,
                logits=np.stack(
                    [logits for logits in kept if logits is not None], axis=1
                ),
                mean_probabilities=probabilities,
            )
    return {
        "split": split,
        "examples": len(labels),
        "views": outputs[0].views,
        "members": len(members),
        **result,
        **parts,
        "checkpoints": [f"{m.workdir}:{m.step}" for m in members],
    }


def _check_alike(first: Member, other: Member, views: int) -> None:
    """See that two runs make an ensemble: the same classes, pictures made alike.

    Raises:
      InputError: naming both runs and what differs.
    """
    here, there = first.data, other.data
    mirrored = [member.config["data"].get("flip", True) for member in (first, other)]
    if here.class_names != there.class_names:
        what, advice = _first_other_class(here.class_names, there.class_names), ""
    elif here.size != there.size:
        what, advice = f"pictures stored at {here.size} and at {there.size} pixels", ""
    elif here.crop != there.crop:
        what, advice = f"crops of {here.crop} and of {there.crop} pixels", ""
    elif not np.array_equal(here.statistics.mean, there.statistics.mean):
        what, advice = "another mean picture is subtracted", ""
    elif views > 1 and mirrored[0] != mirrored[1]:
        what = "one was trained with mirror images and one without"
        advice = "; --views=1 takes both"
    else:
        return
    raise InputError(
        f"{first.workdir} and {other.workdir} make no ensemble: {what}{advice}"
    )


def _first_other_class(here: Sequence[str], there: Sequence[str]) -> str:
    pairs = enumerate(itertools.zip_longest(here, there))
    number, (a, b) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
    return f"class {number} is {a} in one and {b} in the other"


def _open_pipeline(member: Member, path: str | None) -> Pipeline:
    data = {**member.config["data"], "path": path}
    if path is None and data.get("source", "prepared") in WITH_PATH:
        raise InputError(
            f"{member.workdir} doesn't say where its data lie; give --data_path=PATH"
        )
    return call({"data": data}, "data")


def mesh_shape(text: str) -> tuple[int, int]:
    """`1x2` as (data, tower)."""
    data, tower = text.split("x")
    return int(data), int(tower)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(
        "evaluate",
        description="Measure the errors of a run, or of several as one ensemble. The\n"
        "last line of standard output is one JSON object.",
    )
    add = parser.add_argument
    parser.add_workdirs("for each member of an ensemble")
    parser.add_views()
    parser.add_checkpoint()
    add("--split", default="validation", choices=("train", "validation"))
    add(
        "--mesh",
        type=mesh_shape,
        metavar="DATAxTOWER",
        help="devices along data and tower, as 1x2 (default: as in the run)",
    )
    add("--batch_size", type=int, metavar="N", help="pictures at a time")
    add(
        "--data_path",
        metavar="PATH",
        help="where the data lie (default: as in the run)",
    )
    add(
        "--predictions",
        type=Path,
        metavar="FILE.npz",
        help="write names, labels, logits and mean probabilities of every example",
    )
    given = vars(parser.parse_args(arguments))
    progress.print_result(evaluate(given.pop("workdir"), **given))


if __name__ == "__main__":
    cli.run_command(main)
