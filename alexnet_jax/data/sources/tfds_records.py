"""A set of TensorFlow Datasets that is stored as TFRecord, its default, without
TensorFlow: what its files say of it, and its images in their order."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.image_tree import LeftOut, printable
from alexnet_jax.data.sources import rows, shards, tfrecord
from alexnet_jax.data.sources.rows import Rows, RowSource, ShardFile
from alexnet_jax.data.sources.tfrecord import Span
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


INFO_FILE, FEATURES_FILE = "dataset_info.json", "features.json"
# How tfds.load reads shards when it doesn't shuffle: of so many at a time, so many
# examples in turn.
_SHARDS_AT_ONCE = _EXAMPLES_IN_TURN = 16
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_NAMES = ("file_name", "filename")

# JSON as it comes.
Json = Any


class Features(NamedTuple):
    """The features of an example: names of that with the image, of that with the class,
    and, where there is one, of that with the file's name; and the classes."""

    image: str
    label: str
    name: str | None
    classes: tuple[str, ...]


class Split(NamedTuple):
    """A split: its name, its files in order, and how many examples each has."""

    name: str
    files: tuple[str, ...]
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TfrecordSource(RowSource):
    """The encoded images of one split; `place` is where the record's data begin and
    end, and where in the file the image's do."""

    def _read(self, path: Path, index: int, where: str) -> bytes:
        start, stop, first, last = map(int, self.rows.place[index])
        data = tfrecord.read_data(path, Span(start, stop), where)
        return data[first - start : last - start]


def read_json(path: Path) -> Json:
    """A JSON object of a set.

    Raises:
      InputError: if it can't be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{printable(path)} is missing; give the folder of one version of a built "
            "set of TensorFlow Datasets"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{printable(path)} is damaged ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{printable(path)} is damaged (no JSON object)")
    return content


def open_records(
    folder: Path,
    size: int,
    validation_fraction: float,
    *,
    image_key: str | None,
    label_key: str | None,
    other_classes: str,
) -> Dataset:
    """A set in the folder of one version, with TFRecord files.

    Raises:
      InputError: if it can't be read, or is no set of images with one class each.
    """
    info = read_json(folder / INFO_FILE)
    path = folder / INFO_FILE
    try:
        splits = {split.name: split for split in _splits(info)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{printable(path)} is damaged ({error!r})") from error
    features = _features(folder, info, image_key, label_key)
    if "train" not in splits:
        raise InputError(
            f"{printable(folder)} has no split train; it has {', '.join(splits)}"
        )
    second = shards.validation_split(list(splits))
    used, notes = shards.use_of(printable(folder), second)
    total = sum(sum(splits[split].counts) for split in used.values())
    with progress.counted("reading where images lie", total) as advance:
        sources = {
            name: _source(folder, splits[split], features, size, advance)
            for name, split in used.items()
        }
    return rows.row_dataset(
        printable(folder),
        sources,
        features.classes,
        validation_fraction=validation_fraction,
        other_classes=other_classes,
        left_out=LeftOut(),
        notes=notes,
    )


def _splits(info: Json) -> list[Split]:
    """The splits, as `dataset_info.json` lists them."""
    found = []
    for split in info["splits"]:
        counts = tuple(int(count) for count in split.get("shardLengths", ()))
        template = split.get("filepathTemplate") or _TEMPLATE
        files = tuple(
            template.replace("{DATASET}", info["name"])
            .replace("{SPLIT}", split["name"])
            .replace("{FILEFORMAT}", info.get("fileFormat") or "tfrecord")
            .replace("{SHARD_X_OF_Y}", f"{number:05d}-of-{len(counts):05d}")
            .replace("{SHARD_INDEX}", f"{number:05d}")
            .replace("{NUM_SHARDS}", f"{len(counts):05d}")
            for number in range(len(counts))
        )
        found.append(Split(split["name"], files, counts))
    return found


def _features(
    folder: Path, info: Json, image_key: str | None, label_key: str | None
) -> Features:
    """The features of an example, as `features.json` describes them.

    Raises:
      InputError: if none is an image, or a class, or it is in doubt which.
    """
    content = read_json(folder / FEATURES_FILE)
    try:
        listed = content["featuresDict"]["features"]
        kinds = {k: v["pythonClassName"].rpartition(".")[2] for k, v in listed.items()}
        items = info.get("supervisedKeys", {}).get("tuple", {}).get("items", [])
        supervised = [item["featureKey"] for item in items]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{printable(folder / FEATURES_FILE)} is damaged ({error!r})"
        ) from error
    where = f"{printable(folder)} has the features {', '.join(sorted(kinds))}"
    image = _choose(where, kinds, supervised, "Image", "image_key", image_key)
    label = _choose(where, kinds, supervised, "ClassLabel", "label_key", label_key)
    named = [k for k, kind in kinds.items() if kind == "Text" and k.endswith(_NAMES)]
    classes = _classes(folder / f"{label}.labels.txt", listed[label])
    return Features(image, label, named[0] if len(named) == 1 else None, classes)


def _choose(
    where: str,
    kinds: Mapping[str, str],
    supervised: Sequence[str],
    kind: str,
    flag: str,
    given: str | None,
) -> str:
    """The feature of a kind: the one that is given, or usual, or there at all."""
    found = [key for key in kinds if kinds[key] == kind]
    if given is not None:
        if given not in found:
            raise InputError(f"{where}; {given} is no {kind} (--{flag})")
        return given
    usual = [key for key in supervised if key in found] or found
    if not usual:
        raise InputError(f"{where}; none of them is one {kind} for every example")
    if len(usual) > 1:
        raise InputError(
            f"{where}; say which {kind} is meant with --{flag} of `prepare` "
            f"(training: --config.data.{flag})"
        )
    return usual[0]


def _classes(path: Path, feature: Json) -> tuple[str, ...]:
    """The names of the classes; numbers where there are none."""
    if path.is_file():
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
            return tuple(line.strip() for line in lines if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{printable(path)} can't be read ({error})") from error
    try:
        count = int(feature["classLabel"]["numClasses"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{printable(path)} is missing") from error
    return tuple(map(str, range(count)))


def _source(
    folder: Path,
    split: Split,
    features: Features,
    size: int,
    advance: Callable[[int], None],
) -> TfrecordSource:
    """The images of a split, in the order of tfds.load.

    Raises:
      InputError: if a file is missing, damaged, or has other examples than it should.
    """
    places: list[tuple[int, ...]] = []
    labels: list[int] = []
    names: list[str] = []
    for file, count in zip(split.files, split.counts, strict=True):
        path, before = folder / file, len(labels)
        for record in _index(path, features):
            places.append((*record.data, *record.places[features.image]))
            labels.append(record.numbers[features.label])
            if features.name is not None:
                text = record.texts.get(features.name, b"")
                names.append(text.decode("utf-8", "backslashreplace"))
            advance(1)
        if (found := len(labels) - before) != count:
            raise InputError(
                f"{printable(path)} has {found} records where {INFO_FILE} says "
                f"{count}; fetch it again"
            )
        rows.check_labels(labels[before:], len(features.classes), printable(path))
    places_in_order = interleaved(split.counts)
    files = np.repeat(np.arange(len(split.counts), dtype=np.int32), split.counts)
    numbers = np.concatenate([np.arange(count) for count in (0, *split.counts)])
    return TfrecordSource(
        root=folder,
        files=tuple(ShardFile(f, (folder / f).stat().st_size) for f in split.files),
        rows=Rows(
            files,
            numbers.astype(np.int64),
            np.asarray(labels, np.int32),
            np.asarray(places, np.int64).reshape(-1, 4),
            np.asarray(names, object) if names else None,
        ).take(places_in_order),
        split=split.name,
        size=size,
    )


def _index(path: Path, features: Features) -> Iterator[tfrecord.Record]:
    """The records of a file, each with an image and a class."""
    names = () if features.name is None else (features.name,)
    wanted = (features.image, features.label, *names)
    for number, record in enumerate(tfrecord.read_index(path, wanted, names)):
        if features.image in record.places and features.label in record.numbers:
            yield record
            continue
        raise InputError(
            f"{printable(path)}, record {number} lacks its {features.image} or its "
            f"{features.label}"
        )


def interleaved(counts: Sequence[int]) -> Int64[np.ndarray, " examples"]:
    """The order in which tfds.load reads the examples of shards of these lengths, which
    are numbered shard by shard.

    A shard that is at its end leaves its turn to the next, and its place to the next
    shard when that place has its turn again.
    """
    starts = np.cumsum((0, *counts)).tolist()
    waiting = [range(*pair) for pair in reversed(list(itertools.pairwise(starts)))]
    order: list[range] = []
    turns: list[range | None] = [None] * _SHARDS_AT_ONCE
    place = 0
    while waiting or any(left is not None for left in turns):
        left = turns[place]
        if left is None and waiting:
            left = waiting.pop()
        if left is not None:
            order.append(left[:_EXAMPLES_IN_TURN])
            # That a shard is at its end is seen when one more is asked for.
            ended = len(left) < _EXAMPLES_IN_TURN
            turns[place] = None if ended else left[_EXAMPLES_IN_TURN:]
        place = (place + 1) % _SHARDS_AT_ONCE
    return np.fromiter(itertools.chain.from_iterable(order), np.int64)
