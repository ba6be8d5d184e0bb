"""The members of an ensemble: opened, checked against each other and their data."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.sources import registry
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.inference.trained import TrainedNetwork, open_trained
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import unreadable_images
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import plain
from alexnet_jax.runs.run_data import has_same_training_images
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


# The sources that need a path.
WITH_PATH = tuple(sorted(set(registry.SOURCES) - {"digits"}))


def open_mesh(workdirs_given: Sequence[Path], mesh: tuple[int, int] | None) -> Mesh:
    """The mesh of the first run's config, or the one given, for all these networks.

    To be called first: opening a checkpoint asks for devices.
    """
    configs = [plain(workdirs.read_config(workdir)) for workdir in workdirs_given]
    settings = dict(configs[0].get("mesh", {}))
    # That of the machine of the training; here JAX chooses.
    settings.pop("platform", None)
    if mesh is not None:
        settings["data"], settings["tower"] = mesh
    # So many devices divide the towers of each.
    towers = math.gcd(
        *(config.get("model", {}).get("towers", AlexNet.towers) for config in configs)
    )
    try:
        return meshes.open_mesh(towers=towers, **settings)
    except InputError as error:
        if mesh is not None:
            raise
        raise InputError(f"{error}; --mesh=1x1 takes one device") from error


def open_members(
    workdirs_given: Sequence[Path],
    checkpoint: str | int,
    views: int,
    dtype: str | None,
) -> list[TrainedNetwork]:
    """Open runs that make an ensemble; a single run always does. See `open_trained`.

    Raises:
      InputError: if there is no such checkpoint, or two runs don't fit together.
    """
    members = [open_trained(workdir, checkpoint, dtype) for workdir in workdirs_given]
    for other in members[1:]:
        _check_alike(members[0], other, views)
    if views > 1 and not members[0].flipped:
        progress.say("trained without horizontal flips: five views, not ten")
    return members


def _check_alike(first: TrainedNetwork, other: TrainedNetwork, views: int) -> None:
    """Raise an InputError unless two runs have the same classes and preprocessing."""
    here, there = first.data, other.data
    if here.class_names != there.class_names:
        what, advice = _first_other_class(here.class_names, there.class_names), ""
    elif here.size != there.size:
        what, advice = f"images stored at {here.size} and at {there.size} pixels", ""
    elif here.crop != there.crop:
        what, advice = f"crops of {here.crop} and of {there.crop} pixels", ""
    elif not np.array_equal(here.statistics.mean, there.statistics.mean):
        what, advice = "another mean image is subtracted", ""
    elif views > 1 and first.flipped != other.flipped:
        what = "one was trained with horizontal flips and one without"
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


def open_data(
    member: TrainedNetwork,
    path: str | None,
    members: Sequence[TrainedNetwork] = (),
) -> Pipeline:
    """Open a member's data, where they are now.

    What its training left out of them is left out; in an ensemble what the training of
    any of the `members` left out, so that all read the same.

    Raises:
      InputError: if no path is known, or the data have other classes or another size
        than those that the member was trained on.
    """
    source = member.config["data"].get("source", "prepared")
    if path is None and source in WITH_PATH:
        raise InputError(
            f"{member.workdir} doesn't say where its data are; give --data_path=PATH"
        )
    pipeline = member.open_data(path)
    dataset = pipeline.dataset
    if dataset.class_names != member.data.class_names:
        raise InputError(
            f"{member.workdir} was trained on other classes than the data have: "
            + _first_other_class(member.data.class_names, dataset.class_names)
        )
    if dataset.size != member.data.size:
        raise InputError(
            f"{member.workdir} was trained on images stored at {member.data.size} "
            f"pixels a side, and these are stored at {dataset.size}"
        )
    for each in members or (member,):
        if has_same_training_images(each.data, dataset):
            pipeline = unreadable_images.leave_out(each.workdir, pipeline)
    return pipeline
