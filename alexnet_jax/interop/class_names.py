"""Names of classes, from a prepared data set or a file as other libraries have them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_jax.data.prepared import manifest
from alexnet_jax.runtime.errors import InputError, first_line


# In front of a class's words in Caffe's synset_words.txt.
WNID = re.compile(r"n\d{8}\s+(?=\S)")


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of classes, in the order of the outputs.

    Args:
      path: a prepared data set; a text file with a name on each line, as Caffe's
        synset_words.txt, whose WNIDs are left out; or JSON: a list of names, names by
        number, as Keras's imagenet_class_index.json, or numbers by name.

    Raises:
      InputError: if it can't be read, or a number is missing or there twice.
    """
    if path.is_dir():
        return manifest.read_manifest(path).class_names
    try:
        # With the mark that Windows puts at the beginning.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--classes={path} can't be read ({first_line(error)}); give a prepared "
            "data set, or a file in UTF-8"
        ) from error
    if path.suffix.lower() == ".json":
        try:
            return _filled(path, _of_json(json.loads(text)))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(
                f"--classes={path} is no list of names, nor names by number "
                f"({first_line(error)})"
            ) from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if all(WNID.match(name) for name in names):
        names = [WNID.sub("", name) for name in names]
    return _filled(path, tuple(names))


def _filled(path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise InputError(f"--classes={path} has no name in it; give one for each class")
    return names


def _of_json(content: object) -> tuple[str, ...]:
    if isinstance(content, Mapping):
        pairs = [
            (int(value), key) if isinstance(value, int) else (int(key), value)
            for key, value in content.items()
        ]
        numbers = sorted(number for number, _ in pairs)
        if numbers != list(range(len(pairs))):
            raise ValueError(f"the numbers are not 0 to {len(pairs) - 1}")
        content = [name for _, name in sorted(pairs, key=lambda pair: pair[0])]
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise ValueError("something else")
    return tuple(_name(entry) for entry in content)


def _name(entry: object) -> str:
    """A name, or the last of a WNID and a name."""
    name = entry[-1] if isinstance(entry, list) and entry else entry
    if not isinstance(name, str):
        raise ValueError(f"{entry!r:.40} is no name")
    return name
