"""A classification set of TensorFlow Datasets, without TensorFlow.

The set must have been built as ArrayRecord, which has random access; its files are
then read in place.
"""

import dataclasses
from pathlib import Path
from typing import Any

from alexnet_jax.data.dataset import Dataset, fingerprint
from alexnet_jax.data.encoded import EncodedImage, EncodedSource
from alexnet_jax.runtime.errors import InputError, first_line
from alexnet_jax.runtime.optional import require


# An object of the optional package, as it comes.
Tfds = Any


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource(EncodedSource):
    """The encoded images of one split.

    Attributes:
      records: the split, as a random-access source of features.
      start, stop: which of the records.
      keys: names of the image's feature and of the label's.
      title: name and split, for messages.
    """

    records: Tfds = dataclasses.field(repr=False)
    start: int
    stop: int
    keys: tuple[str, str]
    title: str
    size: int

    def __len__(self) -> int:
        return self.stop - self.start

    def name(self, index: int) -> str:
        """The set's name and version, the split, and the place in it."""
        return f"{self.title}/{self.start + index}"

    where = name

    def encoded(self, index: int) -> EncodedImage:
        """The image, still encoded.

        Raises:
          InputError: if it can't be read.
        """
        image, label = self.keys
        where = self.where(index)
        try:
            record = self.records[self.start + index]
        except Exception as error:
            # ArrayRecord and the features' decoders raise many kinds.
            raise InputError(f"{where} can't be read ({first_line(error)})") from error
        return EncodedImage(where, int(record[label]), record[image])

    def fingerprint(self) -> str:
        """Of the set's name and version, the split, and the places in it."""
        return fingerprint([self.title, str(self.start), str(self.stop)])

    def subset(self, start: int, stop: int) -> "TfdsSource":
        """The images from `start` to before `stop`."""
        at = self.start
        return dataclasses.replace(self, start=at + start, stop=at + stop)


def open_tfds(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """A set by its name, like imagenette/full-size-v2, or by its folder.

    The second split is the set's `validation` or `test`. A set with neither has the end
    of `train` held out.

    Raises:
      InputError: if it can't be read, or is no set of images with one class each.
    """
    if path is None:
        raise InputError("data.path is not set; give the set's name or its folder")
    builder = _builder(path)
    info = builder.info
    image, label = _keys(info, path)
    if info.file_format is None or info.file_format.value != "array_record":
        raise InputError(
            f"{path} is stored as {info.file_format and info.file_format.value}, which "
            f"has no random access; build it again with `{_command(path)}`"
        )
    skip = require("tensorflow_datasets", path).decode.SkipDecoding()

    def encoded(split: str) -> TfdsSource:
        records = builder.as_data_source(split=split, decoders={image: skip})
        title = f"{info.full_name}/{split}"
        return TfdsSource(records, 0, len(records), (image, label), title, size)

    second = next((s for s in ("validation", "test") if s in info.splits), None)
    if "train" not in info.splits:
        raise InputError(f"{path} has no split train; it has {', '.join(info.splits)}")
    train = encoded("train")
    if second is not None:
        held_out = encoded(second)
    else:
        kept = len(train) - max(1, round(validation_fraction * len(train)))
        train, held_out = train.subset(0, kept), train.subset(kept, len(train))
    names = tuple(info.features[label].names)
    parts = [info.full_name]
    parts += [f"{n}/{s.num_examples}/{s.num_bytes}" for n, s in info.splits.items()]
    return Dataset(
        splits={"train": train, "validation": held_out},
        class_names=names,
        class_ids=names,
        size=size,
        fingerprint=fingerprint([*parts, str(len(held_out))]),
    )


def _builder(path: str) -> Tfds:
    """A builder that reads built files, and never downloads or builds any."""
    tfds = require("tensorflow_datasets", path)
    loader = require("tensorflow_datasets.core.read_only_builder", path)
    if Path(path).is_dir():
        try:
            return tfds.builder_from_directory(path)
        except Exception as error:
            raise InputError(
                f"{path} is not a built set of TensorFlow Datasets; give the folder of "
                "one version, with its dataset_info.json"
            ) from error
    try:
        return loader.builder_from_files(path)
    except Exception as error:
        # TFDS raises many kinds: on unknown names, missing files and broken metadata.
        raise InputError(
            f"no {path} in the folders of TensorFlow Datasets; build it, once, "
            f"where TensorFlow is installed: `{_command(path)}`"
        ) from error


def _command(path: str) -> str:
    return f"tfds build {path} --file_format=array_record"


def _keys(info: Tfds, path: str) -> tuple[str, str]:
    """Names of the image's feature and of the label's."""
    features = require("tensorflow_datasets", path).features
    keys = info.supervised_keys or ()
    if len(keys) == 2:
        image, label = (info.features[key] for key in keys)
        if isinstance(image, features.Image) and isinstance(label, features.ClassLabel):
            return keys[0], keys[1]
    raise InputError(f"{path} is not a set of images with one class each")
