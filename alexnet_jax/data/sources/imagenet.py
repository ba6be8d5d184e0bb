"""ImageNet (ILSVRC) as image-net.org distributes it: tars within a tar, and a devkit.

The archives are read in place. Labels number the sorted WNIDs, as every published
model does, and not the devkit's own numbers, which order the classes differently.
"""

import dataclasses
import io
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.dataset import Dataset, fingerprint
from alexnet_jax.data.encoded import FileEntry, FileSource, parts_of
from alexnet_jax.data.sources import tar_index
from alexnet_jax.data.sources.folder import open_folder
from alexnet_jax.data.sources.tar_index import Member
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


ARCHIVES = {
    "train": re.compile(r"ILSVRC(\d{4})_(?:img|images)_train\.tar"),
    "validation": re.compile(r"ILSVRC(\d{4})_(?:img|images)_val\.tar"),
    "devkit": re.compile(r"ILSVRC(\d{4})_devkit.*\.tar\.gz"),
}
NAMES = {
    "train": "ILSVRC2012_img_train.tar",
    "validation": "ILSVRC2012_img_val.tar",
    "devkit": "ILSVRC2012_devkit_t12.tar.gz",
}


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


def open_imagenet(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """ILSVRC 2012 (or 2010) in a folder: the two tars of images and the devkit.

    Or unpacked class folders, `train/WNID` and `val/WNID`; there the devkit only gives
    readable names, and may be missing.

    Raises:
      InputError: if an archive is missing, damaged, or does not match the others.
    """
    if path is None:
        raise InputError("data.path is not set; give the folder with ImageNet's tars")
    root = Path(path)
    if not root.is_dir():
        raise InputError(
            f"{root} is not a folder; put {', '.join(NAMES.values())} into one"
        )
    found, year = _find(root)
    if "train" not in found and (root / "train").is_dir():
        dataset = open_folder(path, size, validation_fraction)
        words = read_devkit(found["devkit"], year).words if "devkit" in found else {}
        names = tuple(words.get(wnid, wnid) for wnid in dataset.class_ids)
        return dataclasses.replace(dataset, class_names=names)
    for role, name in NAMES.items():
        if role not in found:
            name = name.replace("2012", year) if year else name
            raise InputError(f"{root} lacks {name}; it comes from image-net.org")
    devkit = read_devkit(found["devkit"], year)
    labels = {wnid: label for label, wnid in enumerate(devkit.words)}
    train = _train_entries(found["train"], labels)
    validation = _validation_entries(found["validation"], devkit, labels)
    splits = {
        "train": FileSource(root, train, size),
        "validation": FileSource(root, validation, size),
    }
    return Dataset(
        splits=splits,
        class_names=tuple(devkit.words.values()),
        class_ids=tuple(devkit.words),
        size=size,
        fingerprint=fingerprint(
            f"{split}/{members.fingerprint()}" for split, members in splits.items()
        ),
        parts=parts_of(splits),
    )


def _find(root: Path) -> tuple[dict[str, Path], str]:
    """The archives by their role, and their year."""
    found: dict[str, Path] = {}
    years: dict[str, str] = {}
    try:
        files = sorted(root.iterdir())
    except OSError as error:
        raise InputError(f"{root} can't be read ({error.strerror})") from error
    for file in files:
        for role, pattern in ARCHIVES.items():
            if match := pattern.fullmatch(file.name):
                if role in found:
                    raise InputError(
                        f"{root} has both {found[role].name} and {file.name}; leave one"
                    )
                found[role] = file
                years[match[1]] = file.name
    if len(years) > 1:
        raise InputError(
            f"{root} mixes the archives of different years: "
            f"{' and '.join(sorted(years.values()))}"
        )
    return found, next(iter(years), "")


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


def _train_entries(path: Path, labels: Mapping[str, int]) -> tuple[FileEntry, ...]:
    """The training images, in the order in which they lie in the archive."""
    inner = {PurePosixPath(m.name).stem: m for m in tar_index.members(path)}
    if strangers := sorted(set(inner) - set(labels)):
        raise InputError(
            f"{path} has {strangers[0]}.tar, which is no class of the devkit"
        )
    if missing := sorted(set(labels) - set(inner)):
        raise InputError(
            f"{path} lacks {len(missing)} of {len(labels)} classes' archives: "
            f"{', '.join(f'{wnid}.tar' for wnid in missing[:5])}"
            f"{' and others' if len(missing) > 5 else ''}; fetch it again"
        )
    entries = []
    with progress.counted("reading archives", len(inner)) as advance:
        for wnid, archive in inner.items():
            before = len(entries)
            for name, offset, length in tar_index.members(path, archive):
                file = f"{wnid}/{PurePosixPath(name).name}"
                entries.append(FileEntry(file, labels[wnid], path.name, offset, length))
            if len(entries) == before:
                raise InputError(f"{path}: {archive.name} has no images")
            advance(1)
    return tuple(entries)


def _validation_entries(
    path: Path, devkit: Devkit, labels: Mapping[str, int]
) -> tuple[FileEntry, ...]:
    """The validation images, in the order of their numbers."""
    numbered: dict[int, Member] = {}
    for member in tar_index.members(path):
        match = re.fullmatch(r"ILSVRC\d{4}_val_(\d+)\.JPEG", Path(member.name).name)
        if match is None:
            raise InputError(f"{path} has {member.name!r}, which is no image of it")
        numbered[int(match[1])] = member
    if sorted(numbered) != list(range(1, len(devkit.truth) + 1)):
        raise InputError(
            f"{path} has {len(numbered)} images where the devkit has the classes "
            f"of {len(devkit.truth)}; fetch both again"
        )
    entries = []
    for number, member in sorted(numbered.items()):
        true = devkit.truth[number - 1]
        if true not in devkit.wnids:
            raise InputError(
                f"the devkit gives {member.name} the class {true}, which it "
                "does not list"
            )
        label = labels[devkit.wnids[true]]
        name = PurePosixPath(member.name).name
        entries.append(FileEntry(name, label, path.name, member.offset, member.length))
    return tuple(entries)
