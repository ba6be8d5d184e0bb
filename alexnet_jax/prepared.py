"""The prepared data set: a folder with `dataset.json`, `mean.npy` and shards.

A shard is an ArrayRecord file; a record is MessagePack of the picture's bytes (JPEG or
raw pixels), its label and its name. `prepare` writes them.
"""

import json
from pathlib import Path
from typing import Any

import grain
import msgpack
import numpy as np

from alexnet_jax import moments, pictures
from alexnet_jax.dataset import Dataset, Example, fingerprint
from alexnet_jax.errors import InputError


FORMAT_VERSION = 1
DATASET_FILE = "dataset.json"


def pack(image: bytes, label: int, name: str) -> bytes:
    """The record of one example in a prepared data set."""
    return msgpack.Packer().pack({"image": image, "label": label, "name": name})


class PreparedSource:
    """The records of one split of a prepared data set."""

    def __init__(self, shards: list[Path], size: int, encoding: str) -> None:
        self._records: Any = grain.sources.ArrayRecordDataSource(
            [str(s) for s in shards]
        )
        self._size = size
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = msgpack.unpackb(self._records[index])
        if self._encoding == "jpeg":
            image = pictures.decode_jpeg(record["image"])
        else:
            flat = np.frombuffer(record["image"], np.uint8)
            image = flat.reshape(self._size, self._size, 3)
        return {"image": image, "label": record["label"]}

    def name(self, index: int) -> str:
        """The example's name."""
        return msgpack.unpackb(self._records[index])["name"]


def open_prepared(path: str | None, size: int, validation_fraction: float) -> Dataset:
    """Open what `prepare` wrote."""
    del size, validation_fraction  # Both were decided when it was prepared.
    prepare = "python -m alexnet_jax.prepare --source=folder --input=PICTURES --output="
    if path is None:
        raise InputError(
            "data.path is not set; prepare a data set with "
            f"`{prepare}DIR` and train with --config.data.path=DIR"
        )
    folder = Path(path)
    if not (folder / DATASET_FILE).is_file():
        raise InputError(
            f"{folder} holds no prepared data set ({DATASET_FILE} is missing); "
            f"make it with `{prepare}{folder}`"
        )
    try:
        description = json.loads((folder / DATASET_FILE).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{folder / DATASET_FILE} is damaged ({error}); prepare the data set again"
        ) from error
    if "shards" not in description:
        raise InputError(f"{folder} holds no prepared data set; it is something else")
    if description["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{folder} was prepared in format {description['format_version']}, newer "
            f"than the {FORMAT_VERSION} read here; upgrade alexnet_jax"
        )
    if not (folder / moments.MEAN_FILE).is_file():
        raise InputError(
            f"{folder / moments.MEAN_FILE} is missing; prepare the data set again"
        )
    splits = {}
    for split, shards in description["shards"].items():
        paths = [folder / shard["file"] for shard in shards]
        for shard in paths:
            if not shard.is_file():
                raise InputError(f"{shard} is missing; prepare the data set again")
        splits[split] = PreparedSource(
            paths, description["size"], description["encoding"]
        )
    return Dataset(
        splits=splits,
        class_names=tuple(description["class_names"]),
        size=description["size"],
        fingerprint=fingerprint(
            shard["sha256"]
            for shards in description["shards"].values()
            for shard in shards
        ),
        statistics=moments.load_statistics(folder, description),
    )
