"""TFRecord files of tf.train.Example messages, read without TensorFlow.

A record is the length of its data in 8 bytes, little end first, with a checksum of 4;
the data; and their checksum. Checksums are masked CRC-32C. An Example is a message of
Protocol Buffers: a map from names to lists of bytes or numbers.
"""

import itertools
import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.image_tree import cannot_read, printable
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.optional import require


_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
HEADER = _LENGTH.size + _CHECKSUM.size
# How an ArrayRecord begins, which is another format for the same messages.
_ARRAY_RECORD = bytes.fromhex("83af70d10d884a3f")
# Bytes of a text, at most.
LONGEST = 2**16
# Read at once to find what is where in a record.
_WINDOW = 4096
# Protocol Buffers: kinds of values, and the numbers of fields.
_VARINT, _SIXTY_FOUR, _BYTES, _THIRTY_TWO = 0, 1, 2, 5
_FEATURES = _KEY = _BYTES_LIST = 1
_FEATURE, _INT64_LIST = 2, 3


class Span(NamedTuple):
    """Where bytes lie in a file."""

    start: int
    stop: int


class Record(NamedTuple):
    """A record: where its data lie, and what its Example has.

    Attributes:
      data: all of its bytes, without header and checksum.
      places: where the first value of each list of bytes lies.
      numbers: the first value of each list of integers.
      texts: the first value of each list of bytes that is asked for.
    """

    data: Span
    places: dict[str, Span]
    numbers: dict[str, int]
    texts: dict[str, bytes]


def read_index(
    path: Path, keys: Collection[str], texts: Collection[str] = ()
) -> Iterator[Record]:
    """The records of a file in their order; of the Examples only these keys.

    Of values nothing is read but numbers and `texts`, so the checksums of data are not
    checked here.

    Raises:
      InputError: if the file can't be read, is cut off or damaged; it names the record.
    """
    try:
        with path.open("rb", buffering=0) as file:
            yield from _records(_Window(file.fileno()), path, keys, texts)
    except OSError as error:
        raise cannot_read(path, error) from error


def _records(
    window: "_Window", path: Path, keys: Collection[str], texts: Collection[str]
) -> Iterator[Record]:
    start, number = 0, 0
    while start < window.length:
        where = f"{printable(path)}, record {number}"
        head = window.read(start, HEADER)
        length = head[: _LENGTH.size]
        if len(head) < HEADER:
            raise InputError(f"{where} is cut off; fetch the file again")
        if _masked(length) != _CHECKSUM.unpack(head[_LENGTH.size :])[0]:
            what = "its length has the wrong checksum; fetch the file again"
            if start == 0 and head.startswith(_ARRAY_RECORD):
                what = (
                    "it is an ArrayRecord; give the files and `fileFormat` in "
                    "dataset_info.json that name, array_record"
                )
            raise InputError(f"{where} is no TFRecord: {what}")
        data = Span(start + HEADER, start + HEADER + _LENGTH.unpack(length)[0])
        if data.stop + _CHECKSUM.size > window.length:
            raise InputError(f"{where} is cut off; fetch the file again")
        try:
            places, numbers = _example(window, data, keys)
            found = {
                key: window.read(place.start, min(place.stop - place.start, LONGEST))
                for key, place in places.items()
                if key in texts
            }
        except ValueError as error:
            raise InputError(f"{where} is no Example ({error})") from error
        yield Record(data, places, numbers, found)
        start, number = data.stop + _CHECKSUM.size, number + 1


def read_data(path: Path, data: Span, where: str) -> bytes:
    """A record's data.

    Raises:
      InputError: if they can't be read, or have the wrong checksum.
    """
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(data.start)
            read = file.read(data.stop - data.start + _CHECKSUM.size)
    except OSError as error:
        raise cannot_read(path, error) from error
    found, checksum = read[: data.stop - data.start], read[data.stop - data.start :]
    if (
        len(checksum) < _CHECKSUM.size
        or _masked(found) != _CHECKSUM.unpack(checksum)[0]
    ):
        raise InputError(
            f"{where} is damaged (checksum mismatch); fetch the file again"
        )
    return found


def _masked(data: bytes) -> int:
    """TFRecord's checksum: turned and shifted, since it may cover other checksums."""
    checksum = require("google_crc32c", "TFRecord").value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


class _Window:
    """Reads small pieces of a file that lie near each other."""

    def __init__(self, file: int) -> None:
        self._file = file
        self.length = os.fstat(file).st_size
        self._start = 0
        self._data = b""

    def read(self, start: int, count: int) -> bytes:
        """Bytes of the file, fewer at its end."""
        at = start - self._start
        if at < 0 or at + count > len(self._data):
            self._data = os.pread(self._file, max(count, _WINDOW), start)
            self._start, at = start, 0
        return self._data[at : at + count]

    def varint(self, start: int) -> tuple[int, int]:
        """A number of variable length, and where it ends."""
        value = shift = 0
        for byte in self.read(start, 10):
            start += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, start
            shift += 7
        raise ValueError("a number without end")


class _Field(NamedTuple):
    """A field of a message: its number, kind and place; `value` is that of a varint."""

    number: int
    kind: int
    place: Span
    value: int


def _fields(window: _Window, message: Span) -> Iterator[_Field]:
    """The fields of a message.

    Raises:
      ValueError: if the bytes are none.
    """
    at = message.start
    while at < message.stop:
        tag, at = window.varint(at)
        kind, value = tag & 7, 0
        if kind == _BYTES:
            length, at = window.varint(at)
            stop = at + length
        elif kind == _VARINT:
            value, stop = window.varint(at)
        elif kind in (_SIXTY_FOUR, _THIRTY_TWO):
            stop = at + (8 if kind == _SIXTY_FOUR else 4)
        else:
            raise ValueError(f"a field of kind {kind}")
        if stop > message.stop:
            raise ValueError("a field past the end")
        yield _Field(tag >> 3, kind, Span(at, stop), value)
        at = stop


def _example(
    window: _Window, message: Span, keys: Collection[str]
) -> tuple[dict[str, Span], dict[str, int]]:
    """What an Example has for these keys."""
    spans: dict[str, Span] = {}
    numbers: dict[str, int] = {}
    for features in _fields(window, message):
        if features.number != _FEATURES:
            continue
        for entry in _fields(window, features.place):
            fields = {f.number: f.place for f in _fields(window, entry.place)}
            if _KEY not in fields or _FEATURE not in fields:
                continue
            name = fields[_KEY]
            key = window.read(name.start, name.stop - name.start).decode()
            if key in keys:
                _first_value(window, key, fields[_FEATURE], spans, numbers)
    return spans, numbers


def _first_value(
    window: _Window,
    key: str,
    feature: Span,
    spans: dict[str, Span],
    numbers: dict[str, int],
) -> None:
    """Note the first value of a list of bytes, or of integers."""
    for values in _fields(window, feature):
        for first in itertools.islice(_fields(window, values.place), 1):
            if values.number == _BYTES_LIST:
                spans[key] = first.place
            elif values.number == _INT64_LIST:
                # Packed into bytes, as a rule, or by itself.
                value = first.value
                if first.kind == _BYTES:
                    value, _ = window.varint(first.place.start)
                numbers[key] = value - (value >> 63 << 64)
