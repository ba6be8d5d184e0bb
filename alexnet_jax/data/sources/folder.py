"""A tree of class folders as a data set."""

import hashlib
import itertools
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data import image_tree
from alexnet_jax.data.dataset import Dataset, fingerprint
from alexnet_jax.data.encoded import FileEntry, FileSource
from alexnet_jax.data.image_tree import ImageFile, LeftOut, printable
from alexnet_jax.data.sources import split_folders
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


NO_LABEL = -1

# The folders of each class, relative to the root. A class is what folders are called in
# Unicode's composed form: a Mac may spell the same name in another.
ClassFolders = dict[str, list[str]]
# The files of each class.
ClassFiles = dict[str, list[ImageFile]]


class LabelledImages(NamedTuple):
    """The images of a folder, and the classes that its own folders give.

    Attributes:
      images: with paths relative to the folder, in their order.
      labels: of each image, `NO_LABEL` where it lies in no class folder.
      class_names: sorted, as those of a run that is trained on the folder.
      left_out: how many files are left out, by the reason.
    """

    images: list[ImageFile]
    labels: list[int]
    class_names: tuple[str, ...]
    left_out: LeftOut


class Layout(NamedTuple):
    """Where class folders lie, relative to the root, which itself is `""`."""

    train: str
    validation: str | None
    test: tuple[str, ...]
    left_out: LeftOut


def open_folder(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """A tree of class folders, under `train` and `validation` (or `val`), or alone.

    Without a validation folder a fraction of each class is held out, chosen by a hash
    of the files' names. Images lie at any depth below their class folder.

    Raises:
      InputError: if there is no such tree, or a class has too few images.
    """
    if path is None:
        raise InputError("data.path is not set; give --config.data.path=FOLDER")
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"data.path={printable(root)} is not a folder")
    layout = find_layout(root)
    names, files, left_out = training_files(root, layout)
    if layout.validation is None:
        if layout.test:
            progress.say(
                f"{printable(root)}: {', '.join(map(printable, layout.test))} is not "
                f"used, and a part of {printable(layout.train)} is held out for "
                "validation; to validate on it, name it validation"
            )
        files, held_out = _hold_out(files, validation_fraction)
    else:
        held_out, more = _validation_files(root, layout.validation, layout.train, files)
        left_out += more
    splits = {
        "train": file_source(root, files, files, size),
        "validation": file_source(root, files, held_out, size),
    }
    return Dataset(
        splits=splits,
        class_names=names,
        class_ids=names,
        size=size,
        fingerprint=fingerprint(
            f"{split}/{source.fingerprint()}" for split, source in splits.items()
        ),
        left_out=left_out,
    )


def images_by_class(root: Path) -> LabelledImages:
    """Every image at any depth of a folder, of all its splits, with its class.

    Raises:
      InputError: if a folder can't be listed.
    """
    found = image_tree.scan(root)
    try:
        layout = find_layout(root)
        places = (layout.train, layout.validation, *layout.test)
    except InputError:
        # Where splits are in doubt, the folders are the classes.
        places = ("",)
    begins = [f"{place}/" if place else "" for place in places if place is not None]

    def folder(image: ImageFile) -> str:
        for begin in begins:
            if image.path.startswith(begin):
                return image.path[len(begin) :].rpartition("/")[0].partition("/")[0]
        return ""

    folders = [folder(image) for image in found.images]
    classes = _by_class(sorted(set(folders) - {""}))
    labels = {name: n for n, name in enumerate(classes)}
    return LabelledImages(
        found.images,
        [labels.get(_class_of(name), NO_LABEL) for name in folders],
        _class_names(classes),
        found.left_out,
    )


def find_layout(root: Path) -> Layout:
    """Find the class folders of a tree.

    Raises:
      InputError: if it is in doubt whether its folders are splits or classes.
    """
    listed = image_tree.scan(root, deep=False)
    splits = split_folders.find_splits(
        root,
        listed.folders,
        lambda name: bool(image_tree.scan(root, name, deep=False).folders),
    )
    if splits is None:
        return Layout("", None, (), LeftOut())
    left_out = listed.left_out + _in_no_class(root, listed.images)
    others = [n for n in listed.folders if n not in (splits.train, splits.validation)]
    for name in others:
        left_out[f"in {printable(name)}"] += image_tree.count_files(root / name)
    return Layout(
        _inner(root, splits.train),
        None if splits.validation is None else _inner(root, splits.validation),
        tuple(_inner(root, name) for name in splits.test),
        +left_out,
    )


def _inner(root: Path, name: str) -> str:
    """The folder within a folder of the same name, as archives unpack to."""
    path = name
    while True:
        listed = image_tree.scan(root, path, deep=False)
        if listed.folders != [name] or listed.images:
            return path
        path = f"{path}/{name}"


def training_files(
    root: Path, layout: Layout
) -> tuple[tuple[str, ...], ClassFiles, LeftOut]:
    """The class names, the training files of each class, and what is left out.

    Raises:
      InputError: if there are not two classes, or one has no images.
    """
    place = printable(root / layout.train)
    folders, listed, left_out = _class_folders(root, layout.train)
    if not folders:
        raise InputError(
            f"{place} has no class folders{_has(len(listed), left_out)}; images are "
            f"expected in {place}/CLASS/"
        )
    if len(folders) == 1:
        raise _single_class(root, layout.train, next(iter(folders.values())))
    files, more = _images(root, folders)
    return _class_names(folders), files, layout.left_out + left_out + more


def _single_class(root: Path, place: str, paths: list[str]) -> InputError:
    """The error for a single class folder."""
    inside = image_tree.scan(root, paths[0], deep=False).folders
    hint = ""
    if len(inside) > 1:
        some = ", ".join(map(printable, itertools.islice(inside, 3)))
        hint = f"; if its folders ({some}) are the classes, give {root / paths[0]}"
    return InputError(
        f"{printable(root / place)} has one class folder, {printable(paths[0])}, and a "
        f"network tells two classes or more apart{printable(hint)}"
    )


def _validation_files(
    root: Path, place: str, train: str, classes: ClassFiles
) -> tuple[ClassFiles, LeftOut]:
    """The validation files of each class, and what is left out."""
    folders, listed, left_out = _class_folders(root, place)
    shown = printable(root / place)
    if not folders:
        hint = ""
        if any(file.path.rpartition("/")[2].startswith("ILSVRC") for file in listed):
            hint = (
                "; for ImageNet's own put ILSVRC2012_devkit_t12.tar.gz, which has "
                f"their classes, into {printable(root)} and choose the source imagenet"
            )
        raise InputError(
            f"{shown} has no class folders{_has(len(listed), left_out)}; validation "
            f"images are expected in {shown}/CLASS/{hint}"
        )
    if strangers := sorted(set(folders) - set(classes)):
        raise InputError(
            f"{shown} has classes that {printable(root / train)} lacks: "
            f"{', '.join(strangers)}"
        )
    files, more = _images(root, folders)
    return {name: files[name] for name in classes if name in files}, left_out + more


def _class_folders(
    root: Path, place: str
) -> tuple[ClassFolders, list[ImageFile], LeftOut]:
    """The class folders in a folder, the images beside them, and what is left out."""
    listed = image_tree.scan(root, place, deep=False)
    begin = f"{place}/" if place else ""
    folders = _by_class([begin + name for name in listed.folders])
    left_out = listed.left_out + _in_no_class(root, listed.images)
    return folders, listed.images, left_out


def _in_no_class(root: Path, images: list[ImageFile]) -> LeftOut:
    """Counts images beside class folders; a link to nowhere may stand for a class."""
    for image in images:
        path = root / image.path
        if not path.suffix and path.is_symlink() and not path.exists():
            raise InputError(
                f"{printable(path)} is a link to {printable(os.readlink(path))}, which "
                "does not exist; is its disk there? Mount it, or move the link away"
            )
    return +LeftOut({"in no class folder": len(images)})


def _by_class(paths: list[str]) -> ClassFolders:
    folders: ClassFolders = {}
    for path in paths:
        folders.setdefault(_class_of(path.rpartition("/")[2]), []).append(path)
    return folders


def _class_of(folder: str) -> str:
    return unicodedata.normalize("NFC", printable(folder))


def _class_names(folders: ClassFolders) -> tuple[str, ...]:
    """The classes' names as their first folders spell them."""
    return tuple(printable(p[0].rpartition("/")[2]) for p in folders.values())


def _has(images: int, left_out: LeftOut) -> str:
    """What a folder has, in brackets."""
    left_out = LeftOut(left_out)
    left_out.pop("in no class folder", None)
    parts = [f"{images} images"] if images else []
    parts += [f"{count} {reason}" for reason, count in sorted(left_out.items())]
    return f" (it has {', '.join(parts)})" if parts else ""


def _images(root: Path, folders: ClassFolders) -> tuple[ClassFiles, LeftOut]:
    """The images of each class in the order of their paths, and what is left out."""
    files: ClassFiles = {}
    left_out = LeftOut()
    for name, paths in folders.items():
        found = [image_tree.scan(root, path) for path in paths]
        files[name] = [file for part in found for file in part.images]
        of_class = sum((part.left_out for part in found), LeftOut())
        if not files[name]:
            raise InputError(
                f"class folder {printable(root / paths[0])} has no images"
                f"{_has(0, of_class)}; add some, or move the folder out of the tree"
            )
        left_out += of_class
    return files, left_out


def _hold_out(files: ClassFiles, fraction: float) -> tuple[ClassFiles, ClassFiles]:
    """The files that are kept for training, and those held out for validation."""

    def rank(file: ImageFile) -> bytes:
        # A hash of the name, so that added files do not reshuffle the others.
        return hashlib.sha256(os.fsencode(file.path)).digest()

    kept, held_out = {}, {}
    for name, members in files.items():
        count = max(1, round(fraction * len(members)))
        if count == len(members):
            raise InputError(
                f"class {name} has {len(members)} images, too few to hold any out "
                "for validation; add more, or a validation folder"
            )
        chosen = set(sorted(members, key=rank)[:count])
        held_out[name] = [file for file in members if file in chosen]
        kept[name] = [file for file in members if file not in chosen]
    return kept, held_out


def file_source(
    root: Path, classes: Mapping[str, object], files: ClassFiles, size: int
) -> FileSource:
    """A source of files; the labels number the classes."""
    labels = {name: label for label, name in enumerate(classes)}
    entries = tuple(
        FileEntry(printable(file.path), labels[name], file.path, 0, file.length)
        for name, members in files.items()
        for file in members
    )
    return FileSource(root, entries, size)
