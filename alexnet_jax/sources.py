"""Where examples come from: prepared data sets, folders of pictures, the digits.

A source is a sequence of examples, random access and the same at every reading. Each is
a whole stored picture and a label; what is cut out of it is decided later.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypedDict

import grain
import msgpack
import numpy as np
from jaxtyping import UInt8

from alexnet_jax import moments, pictures
from alexnet_jax.errors import InputError
from alexnet_jax.moments import Statistics

FORMAT_VERSION = 1
DATASET_FILE = "dataset.json"
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid")}


class Example(TypedDict):
    """One stored picture, `size` pixels a side, and its class."""

    image: UInt8[np.ndarray, "size size 3"]
    label: int


class Source(Protocol):
    """Random access to examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """What the example can be found by."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The two splits of a data set and what is known of it.

    Attributes:
      splits: a source for each split, `train` and `validation`.
      class_names: the name of each label.
      size: side of the stored pictures, in pixels.
      fingerprint: changes when the examples change.
      statistics: of the training pictures, where they were measured before.
    """

    splits: Mapping[str, Source]
    class_names: tuple[str, ...]
    size: int
    fingerprint: str
    statistics: Statistics | None = None


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


def pack(image: bytes, label: int, name: str) -> bytes:
    """The record of one example in a prepared data set."""
    return msgpack.packb({"image": image, "label": label, "name": name})


class PreparedSource:
    """The records of one split of a prepared data set."""

    def __init__(self, shards: list[Path], size: int, encoding: str) -> None:
        self._records = grain.sources.ArrayRecordDataSource([str(s) for s in shards])
        self._size = size
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = msgpack.unpackb(self._records[index])
        if self._encoding == "jpeg":
            image = pictures.decode_jpeg(record["image"])
        else:
            flat = np.frombuffer(record["image"], np.uint8)
            image = flat.reshape(self._size, self._size, 3)
        return {"image": image, "label": record["label"]}

    def name(self, index: int) -> str:
        return msgpack.unpackb(self._records[index])["name"]


def open_prepared(
    path: str | None, size: int, validation_fraction: float
) -> Dataset:
    del size, validation_fraction  # Both were decided when it was prepared.
    prepare = "python -m alexnet_jax.prepare --source=folder --input=PICTURES --output="
    if path is None:
        raise InputError(
            "data.path is not set; prepare a data set with "
            f"`{prepare}DIR` and train with --config.data.path=DIR"
        )
    folder = Path(path)
    if not (folder / DATASET_FILE).is_file():
        raise InputError(
            f"{folder} holds no prepared data set ({DATASET_FILE} is missing); "
            f"make it with `{prepare}{folder}`"
        )
    try:
        description = json.loads((folder / DATASET_FILE).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{folder / DATASET_FILE} is damaged ({error}); prepare the data set again"
        ) from error
    if description["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{folder} was prepared in format {description['format_version']}, newer "
            f"than the {FORMAT_VERSION} read here; upgrade alexnet_jax"
        )
    splits = {}
    for split, shards in description["shards"].items():
        paths = [folder / shard["file"] for shard in shards]
        for shard in paths:
            if not shard.is_file():
                raise InputError(f"{shard} is missing; prepare the data set again")
        splits[split] = PreparedSource(
            paths, description["size"], description["encoding"]
        )
    return Dataset(
        splits=splits,
        class_names=tuple(description["class_names"]),
        size=description["size"],
        fingerprint=fingerprint(
            shard["sha256"]
            for shards in description["shards"].values()
            for shard in shards
        ),
        statistics=moments.load_statistics(folder, description),
    )


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
        return self.files[index][0]


def open_folder(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """A tree of class folders, under `train` and `validation` (or `val`), or at once.

    Without a validation folder a part of each class is held out, chosen by a hash of the
    files' names. Pictures lie at any depth below their class folder.
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
            if file.suffix.lower() in pictures.ENDINGS and not file.name.startswith(".")
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
    """Some of scikit-learn's 1,797 scanned digits of 8x8, enlarged, on black."""

    indices: np.ndarray
    size: int

    def __post_init__(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        object.__setattr__(self, "_images", digits.images)
        object.__setattr__(self, "_labels", digits.target)

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"DigitsSource({len(self.indices)} digits)"

    def __getitem__(self, index: int) -> Example:
        from PIL import Image

        place = int(self.indices[index])
        grey = Image.fromarray((self._images[place] * (255 / 16)).astype(np.uint8))
        grey = grey.resize((self.size, self.size), Image.Resampling.BICUBIC)
        image = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
        return {"image": image, "label": int(self._labels[place])}

    def name(self, index: int) -> str:
        return str(self.indices[index])


def open_digits(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """The digits; the same part is held out whatever the run's seed."""
    if path is not None:
        raise InputError("data.path has no meaning for the digits; leave it out")
    total = 1797
    order = np.random.default_rng(2012).permutation(total)
    count = round(validation_fraction * total)
    held_out, kept = np.sort(order[:count]), np.sort(order[count:])
    return Dataset(
        splits={
            "train": DigitsSource(kept, size),
            "validation": DigitsSource(held_out, size),
        },
        class_names=tuple(str(digit) for digit in range(10)),
        size=size,
        fingerprint=fingerprint(["digits", str(size), str(count)]),
    )


def fingerprint(parts) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()


SOURCES: dict[str, Callable[[str | None, int, float], Dataset]] = {
    "digits": open_digits,
    "folder": open_folder,
    "prepared": open_prepared,
}
