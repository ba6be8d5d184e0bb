"""A tree of class folders as a data set."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from alexnet_jax.data import decoding
from alexnet_jax.data.dataset import Dataset, fingerprint
from alexnet_jax.data.encoded import FileEntry, FileSource, check_name, parts_of
from alexnet_jax.runtime.errors import InputError


SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid")}

# The files of each class, by the class's name.
ClassFiles = dict[str, list[Path]]


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
        raise InputError(f"data.path={root} is not a folder")
    names, files = _files_by_split(root, validation_fraction)
    splits = {s: _source(root, names, members, size) for s, members in files.items()}
    return Dataset(
        splits=splits,
        class_names=names,
        class_ids=names,
        size=size,
        fingerprint=fingerprint(
            f"{split}/{source.fingerprint()}" for split, source in splits.items()
        ),
        parts=parts_of(splits),
    )


def _files_by_split(
    root: Path, validation_fraction: float
) -> tuple[tuple[str, ...], dict[str, ClassFiles]]:
    """The sorted class names, and the files of `train` and `validation`."""
    folders = {
        split: next((root / n for n in names if (root / n).is_dir()), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    train, validation = folders["train"], folders["validation"]
    if train and _is_class(train):
        train = None
    if validation and not train:
        raise InputError(f"{root} has a {validation.name} folder but none of train")
    train_root = train or root
    class_names = tuple(sorted(f.name for f in _folders(train_root)))
    if not class_names:
        raise InputError(
            f"{train_root} has no class folders; images are expected in "
            f"{train_root}/CLASS/"
        )
    files = _images(train_root, class_names)
    if not (train and validation):
        kept, held_out = _hold_out(root, files, validation_fraction)
        return class_names, {"train": kept, "validation": held_out}
    if strangers := {f.name for f in _folders(validation)} - set(class_names):
        raise InputError(
            f"{validation} has classes that {train_root} lacks: "
            f"{', '.join(sorted(strangers))}"
        )
    present = tuple(name for name in class_names if (validation / name).is_dir())
    return class_names, {"train": files, "validation": _images(validation, present)}


def _is_class(folder: Path) -> bool:
    """True if `train/` is a class (the vehicle) and not the split."""
    of_splits = {name for names in SPLIT_FOLDERS.values() for name in names}
    others = [f for f in _folders(folder.parent) if f.name not in of_splits]
    return bool(others) and not _folders(folder)


def _folders(root: Path) -> list[Path]:
    try:
        inside = list(root.iterdir())
    except OSError as error:
        raise InputError(f"{root} can't be read ({error.strerror})") from error
    return [f for f in inside if f.is_dir() and not f.name.startswith(".")]


def _images(root: Path, class_names: tuple[str, ...]) -> ClassFiles:
    """Each class's image files, sorted."""
    found = {}
    for name in class_names:
        found[name] = sorted(
            file
            for file in (root / name).rglob("*")
            if file.suffix.lower() in decoding.ENDINGS
            and file.is_file()
            and not file.name.startswith(".")
        )
        for file in found[name]:
            check_name(str(file.relative_to(root)), root)
        if not found[name]:
            raise InputError(
                f"class folder {root / name} has no images "
                f"({', '.join(sorted(decoding.ENDINGS))}); add some, or move the "
                "folder out of the tree"
            )
    return found


def _hold_out(
    root: Path, files: ClassFiles, fraction: float
) -> tuple[ClassFiles, ClassFiles]:
    """The files that are kept for training, and those held out for validation."""

    def rank(file: Path) -> bytes:
        # A hash of the name, so that added files do not reshuffle the others.
        return hashlib.sha256(file.relative_to(root).as_posix().encode()).digest()

    kept, held_out = {}, {}
    for name, members in files.items():
        count = max(1, round(fraction * len(members)))
        if count == len(members):
            raise InputError(
                f"class {name} has {len(members)} images, too few to hold any out "
                "for validation; add more, or a validation folder"
            )
        ranked = sorted(members, key=rank)
        held_out[name] = sorted(ranked[:count])
        kept[name] = sorted(ranked[count:])
    return kept, held_out


def _source(
    root: Path, class_names: tuple[str, ...], files: Mapping[str, list[Path]], size: int
) -> FileSource:
    entries = []
    for name, members in files.items():
        label = class_names.index(name)
        for file in members:
            relative = file.relative_to(root).as_posix()
            length = file.stat().st_size
            entries.append(FileEntry(relative, label, relative, 0, length))
    return FileSource(root, tuple(entries), size)
