"""ImageNet's validation images: in an archive, flat in a folder, or in class folders.

Where they lie flat, their classes come from the devkit, from Kaggle's table or from
Caffe's list.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data import image_tree
from alexnet_jax.data.encoded import FileEntry
from alexnet_jax.data.image_tree import ImageFile, LeftOut, printable
from alexnet_jax.data.sources import (
    class_folders,
    imagenet_archives,
    imagenet_classes,
    imagenet_layout,
)
from alexnet_jax.data.sources.class_folders import Layout
from alexnet_jax.data.sources.devkit import Devkit
from alexnet_jax.data.sources.imagenet_archives import NAMES, NO_LABEL, Images, base
from alexnet_jax.data.sources.imagenet_layout import (
    CAFFE_LIST,
    KAGGLE_TABLE,
    Given,
    Part,
)
from alexnet_jax.data.sources.tar_index import Member
from alexnet_jax.runtime.errors import InputError


_NUMBERED = re.compile(r"ILSVRC\d{4}_val_(\d+)(?:\.JPEG)?")


class Truth(NamedTuple):
    """The WNID of each validation image by its number, and where that is written."""

    where: str
    wnids: Mapping[int, str]


def number(name: str) -> int:
    """The number of a validation image; 0 for any other file."""
    match = _NUMBERED.fullmatch(base(name))
    return int(match[1]) if match else 0


def from_devkit(devkit: Devkit) -> Truth:
    """The classes that the devkit gives.

    Raises:
      InputError: if it gives one that it doesn't list.
    """
    wnids = {}
    for place, true in enumerate(devkit.truth, 1):
        if true not in devkit.wnids:
            raise InputError(
                f"the devkit gives validation image {place} the class {true}, which it "
                "does not list"
            )
        wnids[place] = devkit.wnids[true]
    return Truth("the devkit", wnids)


def from_kaggle(path: Path) -> Truth:
    """The classes in Kaggle's table: an image's name, and boxes that begin with a WNID.

    Raises:
      InputError: if it can't be read.
    """
    wnids = {}
    rows = csv.reader(_lines(path))
    for line, row in enumerate(_rows(path, rows), 1):
        if line == 1 and row[:1] == ["ImageId"]:
            continue
        words = row[1].split() if len(row) == 2 else []
        image = number(row[0]) if row else 0
        if not image or not words:
            raise _no_image(path, line, "`ILSVRC2012_val_00000001,n01751748 1 2 3 4`")
        wnids[image] = words[0]
    return Truth(path.name, wnids)


def _rows(path: Path, rows: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise InputError(f"{path} is damaged ({error})") from error


def from_caffe(path: Path, classes: Sequence[str]) -> Truth:
    """The classes in Caffe's list, a line for each image: its name, and its label.

    The labels number the thousand WNIDs; where `classes`, those of the training images,
    are not all among them, they number these.

    Raises:
      InputError: if it can't be read.
    """
    known = list(imagenet_classes.words())
    order = known if set(classes) <= set(known) else sorted(classes)
    wnids = {}
    for line, text in enumerate(_lines(path), 1):
        name, _, label = text.strip().rpartition(" ")
        image = number(name.strip())
        if not image or not label.isdecimal() or int(label) >= len(order):
            raise _no_image(
                path, line, f"`ILSVRC2012_val_00000001.JPEG 65`, below {len(order)}"
            )
        wnids[image] = order[int(label)]
    return Truth(path.name, wnids)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{printable(path)} can't be read ({error})") from error
    return [line for line in text.splitlines() if line.strip()]


def _no_image(path: Path, line: int, wanted: str) -> InputError:
    return InputError(
        f"{printable(path)}, line {line}, is no validation image and its class, as "
        f"{wanted}"
    )


def labelled(
    where: str, members: Sequence[Member], archive: str | None, truth: Truth
) -> Images:
    """The validation images in the order of their numbers, with their classes.

    Args:
      where: the folder or archive, for messages.
      members: members of an archive or, without one, files.
      archive: the archive's name.
      truth: their classes.

    Raises:
      InputError: if there are other images than `truth` has classes of.
    """
    numbered = {number(member.name): member for member in members}
    if 0 in numbered:
        raise InputError(f"{where} has {numbered[0].name!r}, which is no image of it")
    nameless = sorted(set(numbered) - set(truth.wnids))
    absent = sorted(set(truth.wnids) - set(numbered))
    if nameless or absent:
        parts = []
        if absent:
            parts.append(f"{len(absent)} are not there, the first number {absent[0]}")
        if nameless:
            first = base(numbered[nameless[0]].name)
            parts.append(f"{len(nameless)} have no class, the first {first}")
        raise InputError(
            f"{where} has {len(numbered)} images where {truth.where} has the classes "
            f"of {len(truth.wnids)} ({'; '.join(parts)}); fetch both again"
        )
    images = []
    for image, (name, offset, length) in sorted(numbered.items()):
        path = name if archive is None else archive
        entry = FileEntry(base(name), NO_LABEL, path, offset, length)
        images.append((truth.wnids[image], entry))
    return images


def find_validation(
    given: Given, layout: Layout | None, classes: Sequence[str]
) -> Part | None:
    """The validation images in any form; None if there are none.

    Args:
      given: the folder that has them.
      layout: of the folders in it.
      classes: of the training images.

    Raises:
      InputError: if they are damaged, or their classes are not known.
    """
    archives = given.archives
    place = layout.validation if layout is not None else None
    if path := archives.found.get("validation"):
        return _in_archive(given, path, place, classes)
    if paths := archives.hub.get("validation"):
        images, left_out = imagenet_archives.of_hub(paths)
        form = f"validation images in {imagenet_layout.names(paths)}"
        return Part(given.root, images, left_out, form)
    if layout is None or place is None:
        return None
    listed = image_tree.scan(given.base, place, deep=False)
    if not listed.folders:
        return _flat(given, place, listed.images, listed.left_out, classes)
    files, left_out = class_folders.validation_files(
        given.base,
        place,
        layout.train,
        classes,
        other_classes=given.other_classes,
    )
    form = f"validation images in class folders in {printable(place)}"
    images = _in_order(imagenet_layout.of_files(files, place))
    return Part(given.base, images, left_out, form)


def _in_archive(
    given: Given, path: Path, place: str | None, classes: Sequence[str]
) -> Part:
    """The validation images of an archive; those of a folder beside it are left out."""
    members, left_out = imagenet_archives.shown_members(path)
    if place is not None:
        listed = image_tree.scan(given.base, place)
        left_out += listed.left_out
        if listed.images:
            left_out[f"in {place}, which the tar has as well"] = len(listed.images)
    truth = _truth(given, classes, place)
    form = f"validation images in {path.name}, classes from {truth.where}"
    images = labelled(str(path), members, path.name, truth)
    return Part(given.root, images, left_out, form)


def _flat(
    given: Given,
    place: str,
    files: Sequence[ImageFile],
    left_out: LeftOut,
    classes: Sequence[str],
) -> Part:
    """Validation images without class folders."""
    shown = f"{printable(given.base)}/{printable(place)}"
    if not any(number(file.path) for file in files):
        raise InputError(
            f"{shown} has no class folders and no images called as ImageNet's, "
            "ILSVRC2012_val_00000001.JPEG"
        )
    truth = _truth(given, classes, place)
    form = f"validation images flat in {printable(place)}, classes from {truth.where}"
    members = [Member(file.path, 0, file.length) for file in files]
    images = labelled(shown, members, None, truth)
    left_out = imagenet_layout.without(left_out, given.used(given.base / place))
    return Part(given.base, images, left_out, form)


def _truth(given: Given, classes: Sequence[str], place: str | None) -> Truth:
    """The classes of validation images."""
    if given.devkit is not None:
        return from_devkit(given.devkit)
    path = find_table(given, place)
    if path.name == KAGGLE_TABLE:
        return from_kaggle(path)
    return from_caffe(path, classes)


def find_table(given: Given, place: str | None) -> Path:
    """The table of the classes of validation images, where there is no devkit; `place`
    is their folder.

    Raises:
      InputError: if there is none.
    """
    folders = () if place is None else (place,)
    for table in (KAGGLE_TABLE, CAFFE_LIST):
        if path := given.beside(table, *folders):
            return path
    name = NAMES["devkit"].replace("2012", given.archives.year or "2012")
    raise InputError(
        f"{printable(given.root)} lacks {name}, which has the classes of validation "
        f"images; it comes from image-net.org, and Kaggle's {KAGGLE_TABLE} or Caffe's "
        f"{CAFFE_LIST} will do as well"
    )


def _in_order(images: Images) -> Images:
    """The validation images of class folders as their archive has them: in the order of
    their numbers and called by these, where all have numbers."""
    numbers = [number(entry.name) for _, entry in images]
    if 0 in numbers or len(set(numbers)) < len(numbers):
        return images
    ordered = sorted(zip(numbers, images, strict=True), key=lambda pair: pair[0])
    return [
        (wnid, entry._replace(name=base(entry.name))) for _, (wnid, entry) in ordered
    ]
