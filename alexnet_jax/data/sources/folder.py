"""A tree of class folders as a data set."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data import image_tree
from alexnet_jax.data.dataset import Dataset, fingerprint
from alexnet_jax.data.encoded import FileEntry, FileSource, parts_of
from alexnet_jax.data.image_tree import ImageFile, LeftOut, printable
from alexnet_jax.data.sources import holding_out
from alexnet_jax.data.sources.class_folders import (
    ClassFiles,
    Layout,
    by_class,
    class_names,
    class_of,
    find_layout,
    training_files,
    validation_files,
)
from alexnet_jax.runtime.errors import InputError


NO_LABEL = -1


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


def open_folder(
    path: str | None,
    size: int,
    validation_fraction: float,
    *,
    other_classes: str = "stop",
) -> Dataset:
    """A tree of class folders, under `train` and `validation` (or `val`), or alone.

    Without a validation folder a fraction of each class is held out, chosen by a hash
    of the files' names. Images lie at any depth below their class folder. Classes that
    only one split has are refused or named, or left out if `other_classes` is `skip`.

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
        files, held_out = _hold_out(files, validation_fraction)
    else:
        held_out, more = validation_files(
            root,
            layout.validation,
            layout.train,
            files,
            other_classes=other_classes,
        )
        left_out += more
        if other_classes == "skip":
            names, files, more = _in_both(names, files, held_out)
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
        parts=parts_of(splits),
        left_out=left_out,
        notes=tuple(_notes(root, layout, files, held_out)),
    )


def _notes(
    root: Path, layout: Layout, train: ClassFiles, held_out: ClassFiles
) -> Iterator[str]:
    """What a user might not expect."""
    shown = printable(root)
    if layout.validation is None and layout.test:
        yield (
            f"{shown}: {', '.join(map(printable, layout.test))} is not used, and a "
            f"part of {printable(layout.train)} is held out for validation; to "
            "validate on it, name it validation"
        )
    yield from holding_out.lacking(shown, list(train), held_out)


def _in_both(
    names: tuple[str, ...], train: ClassFiles, held_out: ClassFiles
) -> tuple[tuple[str, ...], ClassFiles, LeftOut]:
    """The names and training files of the classes that both splits have."""
    kept = {name: files for name, files in train.items() if name in held_out}
    dropped = sum(len(files) for name, files in train.items() if name not in held_out)
    shown = [n for n, key in zip(names, train, strict=True) if key in held_out]
    return tuple(shown), kept, +LeftOut({holding_out.REASON: dropped})


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
    classes = by_class(sorted(set(folders) - {""}))
    labels = {name: n for n, name in enumerate(classes)}
    return LabelledImages(
        found.images,
        [labels.get(class_of(name), NO_LABEL) for name in folders],
        class_names(classes),
        found.left_out,
    )


def _hold_out(files: ClassFiles, fraction: float) -> tuple[ClassFiles, ClassFiles]:
    """The files that are kept for training, and those held out for validation."""
    kept, held_out = {}, {}
    for name, members in files.items():
        names = [os.fsencode(file.path) for file in members]
        chosen = holding_out.held_out(names, fraction, name)
        held_out[name] = [f for place, f in enumerate(members) if place in chosen]
        kept[name] = [f for place, f in enumerate(members) if place not in chosen]
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
