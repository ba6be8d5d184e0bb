"""Which of ImageNet's layouts a folder has: where splits, archives and tables lie."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data import image_tree
from alexnet_jax.data.encoded import FileEntry
from alexnet_jax.data.image_tree import LeftOut, printable
from alexnet_jax.data.sources import (
    class_folders,
    imagenet_archives,
    imagenet_classes,
    split_folders,
)
from alexnet_jax.data.sources.class_folders import ClassFiles, Layout
from alexnet_jax.data.sources.devkit import Devkit, read_devkit
from alexnet_jax.data.sources.imagenet_archives import NO_LABEL, Archives, Images
from alexnet_jax.runtime.errors import InputError


# Tables of the classes of validation images, as Kaggle and Caffe give them.
KAGGLE_TABLE, CAFFE_LIST = "LOC_val_solution.csv", "val.txt"
# Where Kaggle's tree has the folders of the splits, below the folder that is given.
_BELOW = ("", "CLS-LOC", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
_KAGGLE_NAMES = "LOC_synset_mapping.txt"


class Part(NamedTuple):
    """The images of a split.

    Attributes:
      root: the folder that their paths begin in.
      images: with their classes.
      left_out: how many files are left out, by the reason.
      form: what they lie in, for the user.
    """

    root: Path
    images: Images
    left_out: LeftOut
    form: str


@dataclasses.dataclass(frozen=True)
class Given:
    """What is known of the folder before its images are listed.

    Attributes:
      root: the folder that is given.
      base: the folder that has those of the splits.
      archives: in the root.
      devkit: its contents, if there is one.
      words: readable names by WNID.
      size: of the images, in pixels.
      other_classes: `stop` or `skip`.
    """

    root: Path
    base: Path
    archives: Archives
    devkit: Devkit | None
    words: Mapping[str, str]
    size: int
    other_classes: str

    def beside(self, name: str, *folders: str) -> Path | None:
        """A file beside the folders of the splits, in one of them, or above, as far as
        the given folder and the top of Kaggle's tree."""
        return _beside(self.root, self.base, name, *folders)

    def used(self, folder: Path) -> list[Path]:
        """The files in a folder that are read for other things than their images."""
        tables = (_KAGGLE_NAMES, KAGGLE_TABLE, CAFFE_LIST)
        files = [*self.archives.files(), *(folder / name for name in tables)]
        return [path for path in files if path.parent == folder and path.is_file()]


def look(root: Path, size: int, other_classes: str) -> Given:
    """Find the folders, archives and tables, without listing images.

    Raises:
      InputError: if it is in doubt which to take, or one can't be read.
    """
    archives = imagenet_archives.find(root)
    base = next((root / b for b in _BELOW if (root / b / "train").is_dir()), root)
    devkit = None
    if path := archives.found.get("devkit"):
        devkit = read_devkit(path, archives.year)
    words = imagenet_classes.words() if devkit is None else devkit.words
    if devkit is None and (mapping := _beside(root, base, _KAGGLE_NAMES)):
        try:
            text = mapping.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{printable(mapping)} can't be read ({error})") from error
        words = imagenet_classes.parse_words(text)
    return Given(root, base, archives, devkit, words, size, other_classes)


def _beside(root: Path, base: Path, name: str, *folders: str) -> Path | None:
    """See `Given.beside`."""
    above = base.parents[:3] if base.name == "CLS-LOC" else ()
    places = (base, *(base / folder for folder in folders), *above, root)
    return next((p / name for p in places if (p / name).is_file()), None)


def find_layout(given: Given) -> Layout | None:
    """Where the folders of the splits are; None where there is none of training images.

    The training archives may lie beside a folder of validation images.
    """
    archives, base = given.archives, given.base
    if "train" in archives.found or "train" in archives.hub:
        names = image_tree.scan(base, deep=False).folders
        second = [n for n in split_folders.PLAIN["validation"] if n in names]
        return Layout("", second[0] if second else None, (), LeftOut())
    layout = class_folders.find_layout(base)
    if layout.train:
        return layout
    # Class folders alone: those of other names may be anything.
    names = image_tree.scan(base, deep=False).folders
    return layout if names and set(names) <= set(given.words) else None


def without(left_out: LeftOut, used: Iterable[Path]) -> LeftOut:
    """What is left out, without files that are used."""
    return +(left_out - LeftOut(path.suffix for path in used))


def names(paths: list[Path]) -> str:
    """The names of several archives, for messages."""
    first, last = paths[0].name, paths[-1].name
    return first if len(paths) == 1 else f"{first} to {last}"


def of_files(files: ClassFiles, place: str) -> Images:
    """The images of class folders, called by what lies below their split's folder."""
    begin = f"{place}/" if place else ""
    return [
        (
            name,
            FileEntry(
                printable(file.path.removeprefix(begin)),
                NO_LABEL,
                file.path,
                0,
                file.length,
            ),
        )
        for name, members in files.items()
        for file in members
    ]
