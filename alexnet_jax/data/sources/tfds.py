"""A classification set of TensorFlow Datasets, without TensorFlow.

Its files are read in place: TFRecord, which it writes by default, by
`tfds_records`; ArrayRecord by the package tensorflow_datasets.
"""

import dataclasses
from pathlib import Path
from typing import Any

from alexnet_jax.data.dataset import Dataset, fingerprint
from alexnet_jax.data.encoded import EncodedImage, EncodedSource
from alexnet_jax.data.image_tree import printable
from alexnet_jax.data.sources import tfds_records
from alexnet_jax.runtime import patience
from alexnet_jax.runtime.errors import Failure, InputError, first_line
from alexnet_jax.runtime.optional import require


# An object of the optional package, as it comes.
Tfds = Any


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource(EncodedSource):
    """The encoded images of one split.

    Attributes:
      records: the split, as a random-access source of features.
      folder: of its files.
      start, stop: which of the records.
      keys: names of the image's feature and of the label's.
      title: name and split, for messages.
    """

    records: Tfds = dataclasses.field(repr=False)
    folder: Path
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
          Failure: if the drive is away, and stays away.
        """
        image, label = self.keys
        where = self.where(index)
        try:
            # ArrayRecord's open files may stay lost; then a restart opens them anew.
            record = patience.read(
                self.folder, where, lambda: self.records[self.start + index]
            )
        except Failure:
            raise
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


def open_tfds(
    path: str | None,
    size: int,
    validation_fraction: float,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    other_classes: str = "stop",
) -> Dataset:
    """A set by its name, like imagenette/full-size-v2, or by its folder.

    The second split is the set's `validation` or `test`. Of a set with neither a part
    is held out: of TFRecord a fraction of each class, of ArrayRecord the end.

    Raises:
      InputError: if it can't be read, or is no set of images with one class each.
    """
    if path is None:
        raise InputError("data.path is not set; give the set's name or its folder")
    builder, folder = None, _version_folder(path)
    if folder is None:
        builder = _builder(path)
        folder = Path(builder.data_dir)
    info = tfds_records.read_json(folder / tfds_records.INFO_FILE)
    # An older set doesn't say: it is TFRecord.
    stored_as = info.get("fileFormat") or "tfrecord"
    if stored_as == "tfrecord":
        return tfds_records.open_records(
            folder,
            size,
            validation_fraction,
            image_key=image_key,
            label_key=label_key,
            other_classes=other_classes,
        )
    if stored_as != "array_record":
        raise InputError(
            f"{printable(folder)} is stored as {stored_as}, and only tfrecord and "
            f"array_record are read here; build it again with `{_command(path)}`"
        )
    if (image_key, label_key, other_classes) != (None, None, "stop"):
        raise InputError(
            f"{printable(folder)} is stored as array_record, of which the features are "
            "those of its supervised keys, and all classes are kept: leave out "
            "image_key, label_key and other_classes"
        )
    return _of_array_record(
        builder or _builder(str(folder)), path, size, validation_fraction
    )


def _version_folder(path: str) -> Path | None:
    """The folder of the set's one version, in the folder that is given or below it;
    None if a name is given.

    Raises:
      InputError: if it has none, or several.
    """
    folder = Path(path)
    if not folder.is_dir():
        return None
    name = tfds_records.INFO_FILE
    if (folder / name).is_file():
        return folder
    found = sorted([*folder.glob(f"*/{name}"), *folder.glob(f"*/*/{name}")])
    if len(found) == 1:
        return found[0].parent
    has = ", ".join(str(file.parent.relative_to(folder)) for file in found[:5])
    raise InputError(
        f"{printable(folder)} is not a built set of TensorFlow Datasets; give the "
        f"folder of one version, with its {name}{f' (it has {has})' if has else ''}"
    )


def _of_array_record(
    builder: Tfds, path: str, size: int, validation_fraction: float
) -> Dataset:
    info = builder.info
    image, label = _keys(info, path)
    skip = require("tensorflow_datasets", path).decode.SkipDecoding()

    def encoded(split: str) -> TfdsSource:
        records = builder.as_data_source(split=split, decoders={image: skip})
        title = f"{info.full_name}/{split}"
        folder = Path(builder.data_dir)
        return TfdsSource(records, folder, 0, len(records), (image, label), title, size)

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
                f"{path} is not a built set of TensorFlow Datasets "
                f"({first_line(error)}); build it again"
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
