"""ImageNet (ILSVRC) as image-net.org distributes it: tars within a tar, and a devkit.

The archives are read in place. Labels number the sorted WNIDs, as every published
model does, and not the devkit's own numbers, which order the classes differently.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_jax.data import image_tree
from alexnet_jax.data.dataset import Dataset, fingerprint
from alexnet_jax.data.encoded import FileEntry, FileSource, parts_of
from alexnet_jax.data.image_tree import Found, LeftOut, printable
from alexnet_jax.data.sources import class_folders, folder, tar_index
from alexnet_jax.data.sources.class_folders import Layout
from alexnet_jax.data.sources.devkit import Devkit, read_devkit
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


def open_imagenet(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """ILSVRC 2012 (or 2010) in a folder: the two tars of images and the devkit.

    Or unpacked class folders, `train/WNID` and `val/WNID`; there the devkit only gives
    readable names, and may be missing. Or class folders of training images alone, and
    the validation images as their tar or in a flat folder, with the devkit.

    Raises:
      InputError: if an archive is missing, damaged, or does not match the others.
    """
    if path is None:
        raise InputError("data.path is not set; give the folder with ImageNet's tars")
    root = Path(path)
    if not root.is_dir():
        raise InputError(
            f"{printable(root)} is not a folder; put {', '.join(NAMES.values())} into "
            "one"
        )
    found, year = _find(root)
    if "train" not in found and (layout := _unpacked(root)):
        return _open_unpacked(root, layout, found, year, size, validation_fraction)
    for role in NAMES:
        _check_there(root, role, found, year)
    devkit = read_devkit(found["devkit"], year)
    labels = {wnid: label for label, wnid in enumerate(devkit.words)}
    train, left_out = _train_entries(found["train"], labels)
    validation, more = _validation_in_tar(found["validation"], devkit, labels)
    return _dataset(
        tuple(devkit.words),
        devkit.words,
        FileSource(root, train, size),
        FileSource(root, validation, size),
        left_out + more,
    )


def _unpacked(root: Path) -> Layout | None:
    """Where unpacked images lie; None without a folder of training images."""
    layout = class_folders.find_layout(root)
    return layout if layout.train else None


def _without_archives(
    left_out: Mapping[str, int], found: Mapping[str, Path]
) -> LeftOut:
    """What is left out, without the archives that are not."""
    return +(LeftOut(left_out) - LeftOut(path.suffix for path in found.values()))


def _open_unpacked(
    root: Path,
    layout: Layout,
    found: Mapping[str, Path],
    year: str,
    size: int,
    validation_fraction: float,
) -> Dataset:
    """Class folders of training images, and validation images in any form."""
    listed = Found([], [], LeftOut())
    if layout.validation is not None:
        listed = image_tree.scan(root, layout.validation, deep=False)
    flat = listed.images
    numbered = any(_number(image.path) for image in flat) and "devkit" in found
    if listed.folders or not ("validation" in found or numbered):
        dataset = folder.open_folder(str(root), size, validation_fraction)
        words = read_devkit(found["devkit"], year).words if "devkit" in found else {}
        names = tuple(words.get(wnid, wnid) for wnid in dataset.class_ids)
        left_out = _without_archives(dataset.left_out, found)
        return dataclasses.replace(dataset, class_names=names, left_out=left_out)
    _check_there(root, "devkit", found, year)
    devkit = read_devkit(found["devkit"], year)
    wnids, files, left_out = class_folders.training_files(root, layout)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    if "validation" in found:
        entries, more = _validation_in_tar(found["validation"], devkit, labels)
        left_out += more
        if flat:
            left_out[f"in {layout.validation}, which the tar has as well"] += len(flat)
    else:
        place = f"{printable(root)}/{layout.validation}"
        members = [Member(image.path, 0, image.length) for image in flat]
        entries = _validation_entries(place, members, None, devkit, labels)
    return _dataset(
        wnids,
        devkit.words,
        folder.file_source(root, files, files, size),
        FileSource(root, entries, size),
        _without_archives(left_out + listed.left_out, found),
    )


def _check_there(root: Path, role: str, found: Mapping[str, Path], year: str) -> None:
    if role not in found:
        name = NAMES[role].replace("2012", year) if year else NAMES[role]
        raise InputError(f"{printable(root)} lacks {name}; it comes from image-net.org")


def _dataset(
    wnids: tuple[str, ...],
    words: Mapping[str, str],
    train: FileSource,
    validation: FileSource,
    left_out: LeftOut,
) -> Dataset:
    splits = {"train": train, "validation": validation}
    return Dataset(
        splits=splits,
        class_names=tuple(words.get(wnid, wnid) for wnid in wnids),
        class_ids=wnids,
        size=train.size,
        fingerprint=fingerprint(
            f"{split}/{members.fingerprint()}" for split, members in splits.items()
        ),
        parts=parts_of(splits),
        left_out=left_out,
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


def _members(path: Path, within: Member | None = None) -> tuple[list[Member], LeftOut]:
    """The members of an archive, and the hidden ones, which Macs add, as left out."""
    members = list(tar_index.members(path, within))
    shown = [m for m in members if not _base(m.name).startswith(".")]
    return shown, +LeftOut({"hidden": len(members) - len(shown)})


def _base(name: str) -> str:
    """The last part of a member's name; Windows separates parts by its own sign."""
    return re.split(r"[/\\]", name)[-1]


def _train_entries(
    path: Path, labels: Mapping[str, int]
) -> tuple[tuple[FileEntry, ...], LeftOut]:
    """The training images, in the order in which they lie in the archive."""
    outer, left_out = _members(path)
    inner = {_base(member.name).removesuffix(".tar"): member for member in outer}
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
            members, more = _members(path, archive)
            left_out += more
            if not members:
                raise InputError(f"{path}: {archive.name} has no images")
            for name, offset, length in members:
                file = f"{wnid}/{_base(name)}"
                entries.append(FileEntry(file, labels[wnid], path.name, offset, length))
            advance(1)
    return tuple(entries), left_out


def _validation_in_tar(
    path: Path, devkit: Devkit, labels: Mapping[str, int]
) -> tuple[tuple[FileEntry, ...], LeftOut]:
    """The validation images of an archive, and what is left out."""
    members, left_out = _members(path)
    return _validation_entries(path, members, path.name, devkit, labels), left_out


def _number(name: str) -> int:
    """The number of a validation image; 0 for any other file."""
    match = re.fullmatch(r"ILSVRC\d{4}_val_(\d+)\.JPEG", _base(name))
    return int(match[1]) if match else 0


def _validation_entries(
    where: object,
    members: Sequence[Member],
    archive: str | None,
    devkit: Devkit,
    labels: Mapping[str, int],
) -> tuple[FileEntry, ...]:
    """The validation images, in the order of their numbers; members of an archive or,
    without one, files."""
    numbered = {_number(member.name): member for member in members}
    if 0 in numbered:
        raise InputError(f"{where} has {numbered[0].name!r}, which is no image of it")
    if sorted(numbered) != list(range(1, len(devkit.truth) + 1)):
        raise InputError(
            f"{where} has {len(numbered)} images where the devkit has the classes "
            f"of {len(devkit.truth)}; fetch both again"
        )
    entries = []
    for number, (name, offset, length) in sorted(numbered.items()):
        true = devkit.truth[number - 1]
        if true not in devkit.wnids:
            raise InputError(
                f"the devkit gives {name} the class {true}, which it does not list"
            )
        wnid = devkit.wnids[true]
        if wnid not in labels:
            raise InputError(
                f"{where} has images of {wnid}, a class that the training images lack"
            )
        path = name if archive is None else archive
        entries.append(FileEntry(_base(name), labels[wnid], path, offset, length))
    return tuple(entries)
