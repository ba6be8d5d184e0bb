"""Class folders in a tree: where they lie, and the images in them."""

import itertools
import os
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data import decoding, image_tree
from alexnet_jax.data.image_tree import ImageFile, LeftOut, printable
from alexnet_jax.data.sources import holding_out, split_folders
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.progress import counting


# Folders beside the splits that are counted each by its name, at most.
NAMED = 4
# The folders of each class, relative to the root. A class is what folders are called in
# Unicode's composed form: a Mac may spell the same name in another.
ClassFolders = dict[str, list[str]]
# The files of each class.
ClassFiles = dict[str, list[ImageFile]]


class Layout(NamedTuple):
    """Where class folders lie, relative to the root, which itself is `""`."""

    train: str
    validation: str | None
    test: tuple[str, ...]
    left_out: LeftOut


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
        _check_classes(root, listed.folders)
        return Layout("", None, (), LeftOut())
    left_out = listed.left_out + _in_no_class(root, listed.images)
    others = [n for n in listed.folders if n not in (splits.train, splits.validation)]
    for name in others:
        where = printable(name) if len(others) <= NAMED else "folders beside the splits"
        left_out[f"in {where}"] += image_tree.count_files(root / name)
    return Layout(
        _inner(root, splits.train),
        None if splits.validation is None else _inner(root, splits.validation),
        tuple(_inner(root, name) for name in splits.test),
        +left_out,
    )


def _check_classes(root: Path, folders: Sequence[str]) -> None:
    """Raise an InputError if folders look like splits or folds of the same classes:
    each has the same folders in it, as many as they are or more, and no image."""
    inner: list[str] | None = None
    for name in folders:
        found = image_tree.scan(root, name, deep=False)
        if found.images or len(found.folders) < max(2, len(folders)):
            return
        if inner is not None and found.folders != inner:
            return
        inner = found.folders
    if inner is not None and len(folders) > 1:
        raise split_folders.doubt(
            root, folders, f"each with {split_folders.listed(inner)} in it"
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
    return class_names(folders), files, layout.left_out + left_out + more


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


def validation_files(
    root: Path,
    place: str,
    train: str,
    classes: Collection[str],
    *,
    other_classes: str = "stop",
) -> tuple[ClassFiles, LeftOut]:
    """The validation files of each class, and what is left out.

    Raises:
      InputError: if there are none, or, unless `other_classes` is `skip`, classes that
        the training images lack.
    """
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
    strangers = sorted(set(folders) - set(classes))
    holding_out.check_strangers(
        shown,
        strangers,
        printable(root / train),
        other_classes,
        shared=len(strangers) < len(folders),
    )
    for name in strangers:
        for path in folders.pop(name):
            found = image_tree.scan(root, path)
            left_out += found.left_out
            left_out[holding_out.REASON] += len(found.images)
    files, more = _images(root, folders)
    return {name: files[name] for name in classes if name in files}, left_out + more


def _class_folders(
    root: Path, place: str
) -> tuple[ClassFolders, list[ImageFile], LeftOut]:
    """The class folders in a folder, the images beside them, and what is left out."""
    listed = image_tree.scan(root, place, deep=False)
    begin = f"{place}/" if place else ""
    folders = by_class([begin + name for name in listed.folders])
    left_out = listed.left_out + _in_no_class(root, listed.images)
    return folders, listed.images, left_out


def _in_no_class(root: Path, images: list[ImageFile]) -> LeftOut:
    """Counts images beside class folders; a link to nowhere may stand for a class."""
    for image in images:
        if decoding.has_ending(image.path):
            continue
        path = root / image.path
        if path.is_symlink() and not path.exists():
            raise InputError(
                f"{printable(path)} is a link to {printable(os.readlink(path))}, which "
                "does not exist; is its disk there? Mount it, or move the link away"
            )
    return +LeftOut({"in no class folder": len(images)})


def by_class(paths: list[str]) -> ClassFolders:
    """The folders of each class, in the order of the first of each."""
    folders: ClassFolders = {}
    for path in paths:
        folders.setdefault(class_of(path.rpartition("/")[2]), []).append(path)
    return folders


def class_of(folder: str) -> str:
    """The class that a folder's name stands for."""
    return unicodedata.normalize("NFC", printable(folder))


def class_names(folders: ClassFolders) -> tuple[str, ...]:
    """The classes' names as their first folders spell them."""
    return tuple(printable(p[0].rpartition("/")[2]) for p in folders.values())


def _has(images: int, left_out: LeftOut) -> str:
    """What a folder has, in brackets."""
    left_out = LeftOut(left_out)
    left_out.pop("in no class folder", None)
    parts = [counting(images, "image")] if images else []
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
            hint = "" if of_class else " (a work directory belongs elsewhere)"
            raise InputError(
                f"class folder {printable(root / paths[0])} has no images"
                f"{_has(0, of_class)}; add some, or move the folder out of the "
                f"tree{hint}"
            )
        left_out += of_class
    return files, left_out
