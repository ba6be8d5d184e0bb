"""ImageNet (ILSVRC) in the layouts in which people have it; which one it is, is seen.

Archives are read in place. Labels number the sorted WNIDs, as every published model
does, and not the devkit's own numbers, which order the classes differently. A training
image is called WNID/FILE and a validation image by its number, whatever the layout;
but files of the Hub's archives have the WNID in their names as well.
"""

from pathlib import Path

from alexnet_jax.data.dataset import Dataset, fingerprint
from alexnet_jax.data.encoded import FileSource, parts_of
from alexnet_jax.data.image_tree import LeftOut, printable
from alexnet_jax.data.sources import (
    class_folders,
    holding_out,
    imagenet_archives,
    imagenet_layout,
    imagenet_validation,
)
from alexnet_jax.data.sources.class_folders import Layout
from alexnet_jax.data.sources.imagenet_archives import NAMES
from alexnet_jax.data.sources.imagenet_layout import Given, Part
from alexnet_jax.data.sources.packed import PackedSource
from alexnet_jax.runtime.errors import InputError, check_choice


def open_imagenet(
    path: str | None,
    size: int,
    validation_fraction: float,
    *,
    other_classes: str = "stop",
) -> Dataset:
    """ILSVRC 2012 (or 2010) in a folder.

    The training images are the archive of image-net.org, the Hub's archives, or class
    folders. So are the validation images; or they lie in a flat folder, with their
    classes in the devkit, in Kaggle's LOC_val_solution.csv or in Caffe's val.txt. The
    folder may be Kaggle's tree, or a part of it. Without validation images a fraction
    of the training images is held out.

    Raises:
      InputError: if no training images are found, or what is found is damaged or does
        not fit together.
    """
    if path is None:
        raise InputError("data.path is not set; give the folder with ImageNet's tars")
    root = Path(path)
    if not root.is_dir():
        raise InputError(
            f"{printable(root)} is not a folder; put {', '.join(NAMES.values())} into "
            "one"
        )
    check_choice("data.other_classes", other_classes, holding_out.OTHER_CLASSES)
    given = imagenet_layout.look(root, size, other_classes)
    layout = imagenet_layout.find_layout(given)
    if given.devkit is None and "validation" in given.archives.found:
        # Before the minute that the training archive takes.
        imagenet_validation.find_table(given, layout.validation if layout else None)
    train = _training(given, layout)
    classes = sorted({wnid for wnid, _ in train.images})
    validation = imagenet_validation.find_validation(given, layout, classes)
    notes = list(given.archives.notes)
    if validation is None:
        notes.append(
            f"{printable(root)}: {train.form}; there are no validation images "
            f"({NAMES['validation']}, or a folder val), so a part of the training "
            "images is held out"
        )
        train, validation = _hold_out(train, validation_fraction)
    else:
        notes.append(f"{printable(root)}: {train.form}; {validation.form}")
    return _dataset(given, train, validation, notes)


def _training(given: Given, layout: Layout | None) -> Part:
    """The training images in any form."""
    archives, root = given.archives, given.root
    if path := archives.found.get("train"):
        of = "the devkit"
        if given.devkit is None:
            of = "ILSVRC 2012 (for another year put its devkit beside it)"
        images, left_out = imagenet_archives.training(path, given.words, of)
        return Part(root, images, left_out, f"training images in {path.name}")
    if paths := archives.hub.get("train"):
        images, left_out = imagenet_archives.of_hub(paths)
        return Part(
            root, images, left_out, f"training images in {imagenet_layout.names(paths)}"
        )
    if layout is None:
        name = NAMES["train"].replace("2012", archives.year or "2012")
        raise InputError(
            f"{printable(root)} lacks {name}, which comes from image-net.org; or give "
            "a folder with train/WNID, as Kaggle's ILSVRC/Data/CLS-LOC has it"
        )
    _, files, left_out = class_folders.training_files(given.base, layout)
    images = imagenet_layout.of_files(files, layout.train)
    left_out = imagenet_layout.without(left_out, given.used(given.base))
    place = f" in {printable(layout.train)}" if layout.train else ""
    form = f"training images in class folders{place}"
    return Part(given.base, images, left_out, form)


def _hold_out(train: Part, fraction: float) -> tuple[Part, Part]:
    """What is kept of the training images, and what is held out of each class."""
    places: dict[str, list[int]] = {}
    for place, (wnid, _) in enumerate(train.images):
        places.setdefault(wnid, []).append(place)
    chosen: set[int] = set()
    for wnid, members in places.items():
        names = [train.images[place][1].name.encode() for place in members]
        chosen |= {members[i] for i in holding_out.held_out(names, fraction, wnid)}
    kept = [image for n, image in enumerate(train.images) if n not in chosen]
    held_out = [image for n, image in enumerate(train.images) if n in chosen]
    held = train._replace(images=held_out, left_out=LeftOut())
    return train._replace(images=kept), held


def _dataset(given: Given, train: Part, validation: Part, notes: list[str]) -> Dataset:
    """The data set of two splits, with one numbering of the classes of both."""
    shown = printable(given.root)
    left_out = train.left_out + validation.left_out
    parts = {"train": train, "validation": validation}
    matched = holding_out.match(
        shown,
        {split: [wnid for wnid, _ in part.images] for split, part in parts.items()},
        other_classes=given.other_classes,
    )
    wnids = matched.classes
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    splits: dict[str, FileSource] = {}
    for split, part in parts.items():
        images = (part.images[place] for place in matched.kept[split])
        entries = tuple(e._replace(label=labels[wnid]) for wnid, e in images)
        packed = any(entry.path.endswith(".gz") for entry in entries)
        kind = PackedSource if packed else FileSource
        splits[split] = kind(part.root, entries, given.size)
    return Dataset(
        splits=splits,
        class_names=tuple(given.words.get(wnid, wnid) for wnid in wnids),
        class_ids=wnids,
        size=given.size,
        fingerprint=fingerprint(
            f"{split}/{members.fingerprint()}" for split, members in splits.items()
        ),
        parts=parts_of(splits),
        left_out=left_out + matched.left_out,
        notes=(*notes, *matched.notes),
    )
