"""ImageNet's devkit: names and numbers of the classes, classes of validation images."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.sources import tar_index
from alexnet_jax.runtime.errors import InputError


class Devkit(NamedTuple):
    """The contents of the devkit.

    Attributes:
      words: the readable name of each class by its WNID, sorted by WNID.
      wnids: the WNID of each of the devkit's numbers.
      truth: the devkit's number of each validation image's class, in their order.
    """

    words: dict[str, str]
    wnids: dict[int, str]
    truth: list[int]


def read_devkit(path: Path, year: str) -> Devkit:
    """Read the devkit's archive.

    Raises:
      InputError: if it can't be read or is of another year.
    """
    # Here, because SciPy's reader is slow to import and only the devkit needs it.
    import scipy.io

    files = tar_index.unpack_gzip(path)

    def file(ending: str) -> bytes:
        for name, data in files.items():
            if name.endswith(ending):
                return data
        others = [n for n in files if n.endswith("validation_ground_truth.txt")]
        hint = f" (it has {others[0]})" if others else ""
        raise InputError(
            f"{path} has no {ending}{hint}; it is not the devkit of {year}"
        )

    truth_name = f"data/ILSVRC{year}_validation_ground_truth.txt"
    numbers = file(truth_name).split()
    try:
        truth = [int(number) for number in numbers]
    except ValueError as error:
        raise InputError(f"{path}: {truth_name} is damaged ({error})") from error
    meta = io.BytesIO(file("data/meta.mat"))
    number = f"ILSVRC{year}_ID"
    try:
        synsets = scipy.io.loadmat(meta, squeeze_me=True, variable_names=["synsets"])
        synsets = np.atleast_1d(synsets["synsets"])
    except Exception as error:
        # Broken bytes make the reader raise nearly anything.
        raise InputError(f"{path}: data/meta.mat is damaged ({error})") from error
    names = synsets.dtype.names or ()
    for field in (number, "WNID", "words", "num_children"):
        if field not in names:
            raise InputError(
                f"{path}: data/meta.mat has no {field}; it is not the devkit of {year}"
            )
    # Inner nodes of the hierarchy come along; the classes are its leaves.
    try:
        leaves = [synset for synset in synsets if int(synset["num_children"]) == 0]
        words = {str(synset["WNID"]): str(synset["words"]) for synset in leaves}
        wnids = {int(synset[number]): str(synset["WNID"]) for synset in leaves}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: data/meta.mat is damaged ({error})") from error
    return Devkit(words=dict(sorted(words.items())), wnids=wnids, truth=truth)
