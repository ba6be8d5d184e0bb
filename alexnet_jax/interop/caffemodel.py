"""Read the arrays of a .caffemodel or a .binaryproto, which are protocol buffers.

Only the fields that hold weights are read: of NetParameter in BVLC/caffe's caffe.proto
`layer` (field 100) and its older form `layers` (field 2), of these their blobs, and of
blobs shape and numbers. A .binaryproto is one blob: a mean image. Every length is
checked against the bytes that are left.

By hand: the protobuf package would need a module compiled from Caffe's whole schema,
for these few fields.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.runtime.errors import InputError


MAX_BYTES = 2**31
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# (field of the layer in the network, of its name, of its blobs), newer form first.
LAYER_FORMS = ((100, 1, 7), (2, 4, 6))
LEGACY_SHAPE = (1, 2, 3, 4)
DATA, SHAPE, DOUBLES = 5, 7, 8


class CaffeLayer(NamedTuple):
    """A layer that has weights: its name, and its blobs in their order."""

    name: str
    arrays: tuple[np.ndarray, ...]


def read(path: Path) -> list[CaffeLayer]:
    """The layers of a .caffemodel that have weights.

    Raises:
      InputError: if the file can't be read, is damaged, or is no .caffemodel.
    """
    message = _message(path)
    try:
        return [*_layers(message)]
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} is cut off or no .caffemodel ({error})") from error


def read_blob(path: Path) -> np.ndarray:
    """The array of a .binaryproto.

    Raises:
      InputError: if the file can't be read, is damaged, or is no .binaryproto.
    """
    message = _message(path)
    try:
        return _blob(message, path.name)
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} is cut off or no .binaryproto ({error})") from error


def _message(path: Path) -> memoryview:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                f"{path} has over {MAX_BYTES} bytes, more than any network"
            )
        return memoryview(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error


def _layers(message: memoryview) -> Iterator[CaffeLayer]:
    for layer_field, name_field, blob_field in LAYER_FORMS:
        for layer in _parts(message, layer_field):
            name = b"".join(_parts(layer, name_field)).decode(errors="replace")
            arrays = tuple(_blob(blob, name) for blob in _parts(layer, blob_field))
            if arrays:
                yield CaffeLayer(name, arrays)


def _parts(message: memoryview, field: int) -> Iterator[memoryview]:
    """The values of a field that are messages or text themselves."""
    for number, value in fields(message):
        if number == field and isinstance(value, memoryview):
            yield value


def _blob(message: memoryview, layer: str) -> np.ndarray:
    legacy = dict.fromkeys(LEGACY_SHAPE, 1)
    sizes = {n: v for n, v in fields(message) if n in legacy and isinstance(v, int)}
    shape = tuple((legacy | sizes).values())
    for part in _parts(message, SHAPE):
        shape = tuple(_dimensions(part))
    # A part is all numbers of a packed field, or one number of an unpacked field.
    parts = [np.frombuffer(part, "<f4") for part in _parts(message, DATA)]
    parts += [np.frombuffer(part, "<f8") for part in _parts(message, DOUBLES)]
    numbers = np.concatenate(parts or [[]], dtype=np.float32, casting="same_kind")
    # In floats, which don't overflow as a product of damaged sizes would.
    if numbers.size != np.prod(shape, dtype=np.float64):
        raise ValueError(f"{layer!r} has {numbers.size} numbers for {shape}")
    return numbers.reshape(shape)


def _dimensions(message: memoryview) -> Iterator[int]:
    for number, value in fields(message):
        if number == 1 and isinstance(value, int):
            yield value
        elif number == 1 and isinstance(value, memoryview):
            place = 0
            while place < len(value):
                dimension, place = _varint(value, place)
                yield dimension


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: a varint as its number, every other kind as bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == BYTES:
            length, place = _varint(message, place)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"a field of kind {kind}")
        if length > len(message) - place:
            raise ValueError(
                f"a field of {length} bytes where {len(message) - place} are"
            )
        yield number, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(message) or shift > 63:
            raise ValueError("a varint without an end")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
