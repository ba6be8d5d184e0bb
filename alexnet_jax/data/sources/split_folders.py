"""Recognises the folders that people keep their splits in, by their names."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.image_tree import printable
from alexnet_jax.runtime.errors import InputError


# Where several folders could be a split, these are it, the first of them.
PLAIN = {"train": ("train",), "validation": ("validation", "val", "valid")}
_WORDS = {
    "train": "train training trn trainset trainingset traindata trainingdata",
    "validation": "validation validate valid val valset validationset evaluation eval "
    "dev holdout",
    "test": "test testing tests testset testdata",
}
_ROLES = {word: role for role, words in _WORDS.items() for word in words.split()}
_FILLER_WORDS = (
    "data dataset folder image images imagenet ilsvrc img imgs photos pictures set "
    "split x"
)
_FILLERS = frozenset(_FILLER_WORDS.split())

# The names of the folders that may be a split, by the split.
Names = dict[str, list[str]]


class Splits(NamedTuple):
    """The folders of the training and of the validation images; without the latter a
    part of the training images is held out. `test` are those of further images."""

    train: str
    validation: str | None
    test: tuple[str, ...]


def find_splits(
    root: Path, folders: Sequence[str], has_folders: Callable[[str], bool]
) -> Splits | None:
    """Which folders are splits; None where all are classes.

    Split folders are called train, Training, test_set and so on, or differ in that word
    alone, as birds_train and birds_test.

    Args:
      root: the folder that they lie in, for messages.
      folders: their names.
      has_folders: whether the folder of a name has folders in it.

    Raises:
      InputError: where it is in doubt which are splits and which are classes.
    """
    names = _candidates(root, folders)
    if not names:
        return None
    found = [name for role in names.values() for name in role]
    beside = [name for name in folders if name not in found]
    if "train" not in names:
        raise doubt(root, found, "but no folder of training images")
    train = _pick(root, "train", names)
    validation = _pick(root, "validation", names) if "validation" in names else None
    alone = len(names) == 1
    if beside and not has_folders(train):
        # A train is also a vehicle.
        if alone:
            return None
        raise doubt(root, found, f"beside {listed(beside)}")
    if beside and alone and train not in PLAIN["train"]:
        raise doubt(root, found, f"beside {listed(beside)}")
    return Splits(train, validation, tuple(names.get("test", ())))


def _candidates(root: Path, folders: Sequence[str]) -> Names:
    """The folders that look like splits."""
    groups: dict[tuple[str, ...], Names] = {}
    for name in folders:
        words = _words(name)
        word = next((word for word in words if word in _ROLES), None)
        if word is not None:
            rest = tuple(w for w in words if w != word and w not in _FILLERS)
            groups.setdefault(rest, {}).setdefault(_ROLES[word], []).append(name)
    plain = groups.pop((), {})
    # Of a freight_train alone nothing says that it is a split.
    pairs = [names for names in groups.values() if "train" in names and len(names) > 1]
    if "train" in plain or not pairs:
        return plain
    if plain or len(pairs) > 1:
        found = [
            n for names in (plain, *pairs) for role in names.values() for n in role
        ]
        raise doubt(root, found, "of several kinds")
    return pairs[0]


def role(name: str) -> str | None:
    """The split that a name says, if it says one: `train`, `validation` or `test`."""
    return next((_ROLES[word] for word in _words(name) if word in _ROLES), None)


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.casefold())


def _pick(root: Path, role: str, names: Names) -> str:
    """The folder of a split, out of those that could be it."""
    found = names[role]
    plain = [name for name in PLAIN[role] if name in found]
    if len(found) > 1 and not plain:
        raise doubt(root, found, f"more than one for {role}")
    return (plain or found)[0]


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    shown = ", ".join(printable(name) for name in sorted(names)[:4])
    return shown + (", ..." if len(names) > 4 else "")


def doubt(root: Path, found: Sequence[str], why: str) -> InputError:
    """The error for folders that may be splits or classes."""
    return InputError(
        f"{printable(root)} has {listed(found)}, which may be splits or classes, "
        f"{why}; if they are splits, name them train and validation; if they are "
        f"classes, put all class folders into {printable(root)}/train"
    )
