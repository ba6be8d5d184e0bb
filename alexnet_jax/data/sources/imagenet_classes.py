"""The 1,000 classes of ILSVRC 2012: their WNIDs and readable names.

`imagenet_classes.txt` has both as the devkit gives them, a class a line, sorted by
WNID. That order is the labels' of every published model, of torchvision's class
folders, of TensorFlow Datasets and of the Hub.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path


@functools.cache
def words() -> Mapping[str, str]:
    """The readable name of each class by its WNID, in the order of the labels."""
    file = Path(__file__).with_suffix(".txt")
    return parse_words(file.read_text(encoding="utf-8"))


def parse_words(text: str) -> dict[str, str]:
    """Lines of a WNID and its readable name, such as `n02119789 kit fox`."""
    lines = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return {wnid: name.strip() for wnid, _, name in lines}


def readable(names: Sequence[str]) -> tuple[str, ...]:
    """Class names, with a readable one for each WNID, where all of them are WNIDs of
    the thousand; else as they are."""
    known = words()
    if all(name in known for name in names):
        return tuple(known[name] for name in names)
    return tuple(names)


def class_ids(names: Sequence[str]) -> tuple[str, ...]:
    """The WNIDs of the thousand classes where `names` are those, by WNID or readable;
    else the names themselves."""
    # The Hub numbers one of the two cranes, since its names must differ.
    plain = [re.sub(r"\d+$", "", name) for name in names]
    if plain == list(words().values()):
        return tuple(words())
    return tuple(names)
