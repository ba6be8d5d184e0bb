"""Where examples come from: prepared data sets, folders of pictures, the digits.

A source is a sequence of examples, random access and the same at every reading. Each is
a whole stored picture and a label; what is cut out of it is decided later.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_jax import pictures
from alexnet_jax.dataset import Dataset, Example, fingerprint
from alexnet_jax.errors import InputError
from alexnet_jax.prepared import open_prepared


SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid")}


def open_dataset(
    *, source: str, path: str | None, size: int, validation_fraction: float
) -> Dataset:
    """Open a data set.

    Args:
      source: a key of `SOURCES`.
      path: its folder; the digits have none.
      size: side of the stored pictures; a prepared data set has its own.
      validation_fraction: the part held out of a folder or the digits that come without
        a validation split.

    Raises:
      InputError: if it isn't there or is not what the source expects.
    """
    if source not in SOURCES:
        raise InputError(
            f"data.source={source!r} unknown; choose from {', '.join(sorted(SOURCES))}"
        )
    if not 0 < validation_fraction < 1:
        raise InputError(
            f"data.validation_fraction={validation_fraction} must lie between 0 and 1"
        )
    return SOURCES[source](path, size, validation_fraction)


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Picture files, read and decoded when they are asked for."""

    root: Path
    files: tuple[tuple[str, int], ...]
    size: int

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"FolderSource({self.root}, {len(self.files)} pictures)"

    def __getitem__(self, index: int) -> Example:
        name, label = self.files[index]
        try:
            data = (self.root / name).read_bytes()
        except OSError as error:
            raise InputError(f"{self.root / name} can't be read ({error})") from error
        image = pictures.decode(data, str(self.root / name), size=self.size)
        return {"image": image, "label": label}

    def name(self, index: int) -> str:
        """The example's name."""
        return self.files[index][0]


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
    files = _pictures(root, train_root, class_names)
    if folders["train"] and folders["validation"]:
        held_out_root = root / folders["validation"]
        strangers = {f.name for f in _folders(held_out_root)} - set(class_names)
        if strangers:
            raise InputError(
                f"{held_out_root} has classes that {train_root} lacks: "
                f"{', '.join(sorted(strangers))}"
            )
        present = tuple(n for n in class_names if (held_out_root / n).is_dir())
        held_out = _pictures(root, held_out_root, present)
    else:
        files, held_out = _hold_out(files, validation_fraction)

    def source(of_class: Mapping[str, list[str]]) -> FolderSource:
        pairs = [
            (file, class_names.index(name))
            for name, files in of_class.items()
            for file in files
        ]
        return FolderSource(root, tuple(pairs), size)

    splits = {"train": source(files), "validation": source(held_out)}
    return Dataset(
        splits=splits,
        class_names=class_names,
        size=size,
        fingerprint=fingerprint(
            f"{split}/{name}/{(root / name).stat().st_size}"
            for split, members in splits.items()
            for name, _ in members.files
        ),
    )


def _folders(root: Path) -> list[Path]:
    return [f for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")]


def _pictures(
    root: Path, split_root: Path, class_names: tuple[str, ...]
) -> dict[str, list[str]]:
    """Names of each class's pictures, relative to the root and sorted."""
    found = {}
    for name in class_names:
        found[name] = sorted(
            file.relative_to(root).as_posix()
            for file in (split_root / name).rglob("*")
            if file.suffix.lower() in pictures.ENDINGS
            and file.is_file()
            and not file.name.startswith(".")
        )
        if not found[name]:
            raise InputError(
                f"class folder {split_root / name} has no pictures "
                f"({', '.join(sorted(pictures.ENDINGS))}); add some or remove it"
            )
    return found


def _hold_out(
    files: Mapping[str, list[str]], fraction: float
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    kept, held_out = {}, {}
    for name, members in files.items():
        count = max(1, round(fraction * len(members)))
        if count == len(members):
            raise InputError(
                f"class {name} has {len(members)} pictures, too few to hold any out "
                "for validation; add more, or a validation folder"
            )
        ranked = sorted(members, key=lambda m: hashlib.sha256(m.encode()).digest())
        held_out[name] = sorted(ranked[:count])
        kept[name] = sorted(ranked[count:])
    return kept, held_out


@dataclasses.dataclass(frozen=True, eq=False)
class DigitsSource:
    """Some of scikit-learn's 1,797 scanned digits of 8x8, enlarged, on black.

    Attributes:
      indices: which of them.
      images: all of them, 0 to 16.
      labels: of all of them.
      size: side of the enlarged picture, in pixels.
    """

    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    size: int

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"DigitsSource({len(self.indices)} digits)"

    def __getitem__(self, index: int) -> Example:
        place = int(self.indices[index])
        grey = Image.fromarray((self.images[place] * (255 / 16)).astype(np.uint8))
        grey = grey.resize((self.size, self.size), Image.Resampling.BICUBIC)
        image = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
        return {"image": image, "label": int(self.labels[place])}

    def name(self, index: int) -> str:
        """The example's name."""
        return str(self.indices[index])


def _digits() -> tuple[np.ndarray, np.ndarray]:
    # Slow to import, and only the digits need it.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.reshape(pixels, (-1, 8, 8)), np.asarray(labels)


def open_digits(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """The digits; the same part is held out whatever the run's seed."""
    if path is not None:
        raise InputError("data.path has no meaning for the digits; leave it out")
    images, labels = _digits()
    total = len(labels)
    order = np.random.default_rng(2012).permutation(total)
    count = round(validation_fraction * total)
    if not 0 < count < total:
        raise InputError(
            f"data.validation_fraction={validation_fraction} leaves a split of the "
            f"{total} digits empty"
        )
    held_out, kept = np.sort(order[:count]), np.sort(order[count:])
    return Dataset(
        splits={
            "train": DigitsSource(kept, images, labels, size),
            "validation": DigitsSource(held_out, images, labels, size),
        },
        class_names=tuple(str(digit) for digit in range(10)),
        size=size,
        fingerprint=fingerprint(["digits", str(size), str(count)]),
    )


SOURCES: dict[str, Callable[[str | None, int, float], Dataset]] = {
    "digits": open_digits,
    "folder": open_folder,
    "prepared": open_prepared,
}
