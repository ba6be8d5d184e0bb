"""Which columns of a Parquet file hold images, their names and their classes."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from alexnet_jax.runtime.errors import InputError


# Objects of the optional package pyarrow, as they come.
Schema = Any
DataType = Any

# Of several columns of classes the first of these is meant.
LABELS = ("label", "labels", "fine_label", "class", "cls", "target", "y")
IMAGES = ("image", "img", "jpg", "png")


class Columns(NamedTuple):
    """The columns of a set.

    Attributes:
      image: of the encoded images, with the field in it that has their bytes.
      name: of the images' names, if there is one.
      label: of the classes.
      classes: their names, where the file says them.
    """

    image: str
    name: str | None
    label: str
    classes: tuple[str, ...] | None


def find_columns(
    schema: Schema, where: str, image_key: str | None, label_key: str | None
) -> Columns:
    """The columns of a schema, which are named or known by what they hold.

    Args:
      schema: of a file.
      where: the file, for messages.
      image_key, label_key: names of the columns, or None.

    Raises:
      InputError: if there is none, or several and no name says which.
    """
    features = _features(schema)
    names = list(schema.names)
    listed = f"{where} has the columns {', '.join(names)}"
    image = _choose(
        image_key,
        [n for n in names if _is_image(schema.field(n).type, features.get(n))],
        IMAGES,
        names,
        f"{listed}, and none of encoded images{_of_text(schema, image_key, IMAGES)}",
        f"{listed}; say which has the images with --image_key of `prepare` (training: "
        "--config.data.image_key)",
    )
    if not _is_image(schema.field(image).type, features.get(image)):
        raise InputError(
            f"{listed}; {image} has no encoded images"
            f"{_of_text(schema, image, (image,))}"
        )
    label = _choose(
        label_key,
        [n for n in names if features.get(n, {}).get("_type") == "ClassLabel"]
        or [n for n in names if n in LABELS and _is_label(schema.field(n).type)],
        LABELS,
        names,
        f"{listed}, and none of classes; say which it is with --label_key of "
        "`prepare` (training: --config.data.label_key)",
        f"{listed}; say which has the classes with --label_key of `prepare` (training: "
        "--config.data.label_key)",
    )
    if not _is_label(schema.field(label).type):
        raise InputError(f"{listed}; {label} has neither numbers nor text")
    fields = _fields(schema.field(image).type)
    classes = features.get(label, {}).get("names")
    return Columns(
        f"{image}.bytes" if fields else image,
        f"{image}.path" if "path" in fields else None,
        label,
        tuple(map(str, classes)) if isinstance(classes, list) else None,
    )


def _features(schema: Schema) -> dict[str, dict[str, Any]]:
    """What the library `datasets` notes of each column."""
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])
        features = noted["info"]["features"]
        return {k: v for k, v in features.items() if isinstance(v, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _choose(
    given: str | None,
    found: Sequence[str],
    usual: Sequence[str],
    names: Sequence[str],
    nothing: str,
    several: str,
) -> str:
    """The column that is given or found; of several the first that is called as usual.

    `nothing` and `several` are what is said where there is none, or no one.
    """
    if given is not None:
        if given not in names:
            raise InputError(f"{several}; there is no column {given}")
        return given
    if not found:
        raise InputError(nothing)
    if len(found) == 1:
        return found[0]
    chosen = [name for name in usual if name in found]
    if not chosen:
        raise InputError(several)
    return chosen[0]


def _fields(kind: DataType) -> list[str]:
    """The fields of a column that has any."""
    return [kind.field(n).name for n in range(kind.num_fields)]


def _is_bytes(kind: DataType) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view")


def _is_image(kind: DataType, feature: dict[str, Any] | None) -> bool:
    """Whether a column holds encoded images: bytes, or bytes and a path."""
    if str(kind).startswith("struct"):
        fields = {
            kind.field(n).name: kind.field(n).type for n in range(kind.num_fields)
        }
        return "bytes" in fields and _is_bytes(fields["bytes"])
    if feature is not None and feature.get("_type") not in (None, "Image", "Value"):
        return False
    return _is_bytes(kind)


def _is_label(kind: DataType) -> bool:
    text = str(kind)
    return text.startswith(("int", "uint", "string", "large_string", "dictionary<"))


def _of_text(schema: Schema, given: str | None, usual: Sequence[str]) -> str:
    """A hint where images are addresses or paths instead of bytes."""
    names = [given] if given else [n for n in schema.names if n.lower() in usual]
    names += [n for n in schema.names if "url" in n.lower() and n not in names]
    texts = [n for n in names if str(schema.field(n).type).endswith("string")]
    if not texts:
        return ""
    return f"; {texts[0]} has text: download what it names, and store the bytes"
