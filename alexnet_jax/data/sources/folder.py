"""A tree of class folders as a data set."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from alexnet_jax.data import images
from alexnet_jax.data.dataset import Dataset, fingerprint
from alexnet_jax.data.encoded import FileOriginals, Piece, check_name
from alexnet_jax.runtime.errors import InputError


SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid")}


def open_folder(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """A tree of class folders, under `train` and `validation` (or `val`), or at once.

    Without a validation folder a part of each class is held out, chosen by a hash of
    the files' names. Pictures lie at any depth below their class folder.
    """
    if path is None:
        raise InputError("data.path is not set; give --config.data.path=FOLDER")
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"data.path={root} is not a folder")
    folders = {
        split: next((n for n in names if (root / n).is_dir()), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    if folders["train"] and _is_class(root, folders["train"]):
        folders["train"] = None
    if folders["validation"] and not folders["train"]:
        raise InputError(
            f"{root} has a {folders['validation']} folder but none of train"
        )
    train_root = root / folders["train"] if folders["train"] else root
    class_names = tuple(sorted(f.name for f in _folders(train_root)))
    if not class_names:
        raise InputError(
            f"{train_root} has no class folders; pictures are expected in "
            f"{train_root}/CLASS/"
        )
    files = _pictures(train_root, class_names)
    if folders["train"] and folders["validation"]:
        held_out_root = root / folders["validation"]
        strangers = {f.name for f in _folders(held_out_root)} - set(class_names)
        if strangers:
            raise InputError(
                f"{held_out_root} has classes that {train_root} lacks: "
                f"{', '.join(sorted(strangers))}"
            )
        present = tuple(n for n in class_names if (held_out_root / n).is_dir())
        held_out = _pictures(held_out_root, present)
    else:
        files, held_out = _hold_out(root, files, validation_fraction)

    def source(of_class: Mapping[str, list[Path]]) -> FileOriginals:
        labels = {name: label for label, name in enumerate(class_names)}
        pieces = []
        for name, members in of_class.items():
            for file in members:
                relative = file.relative_to(root).as_posix()
                length = file.stat().st_size
                pieces.append(Piece(relative, labels[name], relative, 0, length))
        return FileOriginals(root, tuple(pieces), size)

    splits = {"train": source(files), "validation": source(held_out)}
    return Dataset(
        splits=splits,
        class_names=class_names,
        class_ids=class_names,
        size=size,
        fingerprint=fingerprint(
            f"{split}/{members.fingerprint()}" for split, members in splits.items()
        ),
    )


def _is_class(root: Path, name: str) -> bool:
    """Whether a folder named as a split is a class beside others: a train is also
    something that drives."""
    of_splits = {name for names in SPLIT_FOLDERS.values() for name in names}
    others = [folder for folder in _folders(root) if folder.name not in of_splits]
    return bool(others) and not _folders(root / name)


def _folders(root: Path) -> list[Path]:
    try:
        inside = list(root.iterdir())
    except OSError as error:
        raise InputError(f"{root} can't be read ({error.strerror})") from error
    return [f for f in inside if f.is_dir() and not f.name.startswith(".")]


def _pictures(root: Path, class_names: tuple[str, ...]) -> dict[str, list[Path]]:
    """Each class's pictures, sorted."""
    found = {}
    for name in class_names:
        found[name] = sorted(
            file
            for file in (root / name).rglob("*")
            if file.suffix.lower() in images.ENDINGS
            and file.is_file()
            and not file.name.startswith(".")
        )
        for file in found[name]:
            check_name(str(file.relative_to(root)), root)
        if not found[name]:
            raise InputError(
                f"class folder {root / name} has no pictures "
                f"({', '.join(sorted(images.ENDINGS))}); add some or remove it"
            )
    return found


def _hold_out(
    root: Path, files: Mapping[str, list[Path]], fraction: float
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    def rank(file: Path) -> bytes:
        return hashlib.sha256(file.relative_to(root).as_posix().encode()).digest()

    kept, held_out = {}, {}
    for name, members in files.items():
        count = max(1, round(fraction * len(members)))
        if count == len(members):
            raise InputError(
                f"class {name} has {len(members)} pictures, too few to hold any out "
                "for validation; add more, or a validation folder"
            )
        ranked = sorted(members, key=rank)
        held_out[name] = sorted(ranked[:count])
        kept[name] = sorted(ranked[count:])
    return kept, held_out
