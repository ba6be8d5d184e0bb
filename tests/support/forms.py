"""One small set of images with ImageNet's names, written in every form that is read.

Its images are of 5 classes, 40 for training and 20 for validation; some are odd:
greyscale, CMYK, transparent, turned by the camera, or of another format than their
names say.
"""

import functools
import io
import json
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.sources import registry
from alexnet_jax.runtime import patience
from alexnet_jax.runtime.errors import InputError

import archives


class Photo(NamedTuple):
    """An image of the set: its file's name, and its bytes."""

    wnid: str
    name: str
    data: bytes


# In the order of the labels.
WNIDS = sorted(archives.WNIDS)
WORDS = {wnid: words for wnid, (_, words) in archives.WNIDS.items()}
SIZE = 16


def _encoded(serial: int) -> bytes:
    rng = np.random.default_rng(serial)
    height, width = rng.integers(20, 48, 2)
    pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(pixels).resize((int(width), int(height)))
    buffer = io.BytesIO()
    odd = serial % 12
    if odd == 1:
        image.convert("L").save(buffer, "JPEG")
    elif odd == 2:
        image.convert("CMYK").save(buffer, "JPEG")
    elif odd == 3:
        image.putalpha(100)
        image.save(buffer, "PNG")
    elif odd == 4:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(buffer, "JPEG", exif=exif)
    elif odd == 5:
        image.save(buffer, "WEBP")
    else:
        image.save(buffer, "JPEG")
    return buffer.getvalue()


@functools.cache
def photos() -> dict[str, list[Photo]]:
    """The images of each split, in the order of ImageNet's archives."""
    train = [
        Photo(wnid, f"{wnid}/{wnid}_{n}.JPEG", _encoded(100 * k + n))
        for k, wnid in enumerate(WNIDS)
        for n in range(8)
    ]
    validation = [
        Photo(
            WNIDS[7 * n % 5],
            f"ILSVRC2012_val_{n + 1:08d}.JPEG",
            _encoded(1000 + n),
        )
        for n in range(20)
    ]
    return {"train": train, "validation": validation}


def _write(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _train_folders(place: str) -> dict[str, bytes]:
    return {f"{place}/{photo.name}": photo.data for photo in photos()["train"]}


def class_folders(root: Path) -> None:
    """`train/WNID` and `val/WNID`."""
    held_out = {f"val/{p.wnid}/{p.name}": p.data for p in photos()["validation"]}
    _write(root, _train_folders("train") | held_out)


def tars(root: Path) -> None:
    """The two archives and the devkit."""
    inner = {
        f"{wnid}.tar": archives.tar(
            {
                photo.name.rpartition("/")[2]: photo.data
                for photo in photos()["train"]
                if photo.wnid == wnid
            }
        )
        for wnid in WNIDS
    }
    held_out = {photo.name: photo.data for photo in photos()["validation"]}
    truth = [archives.WNIDS[photo.wnid][0] for photo in photos()["validation"]]
    _write(
        root,
        {
            "ILSVRC2012_img_train.tar": archives.tar(inner),
            "ILSVRC2012_img_val.tar": archives.tar(held_out),
            "ILSVRC2012_devkit_t12.tar.gz": archives.devkit(truth=truth),
        },
    )


def kaggle(root: Path) -> None:
    """Kaggle's tree, with boxes in the table of validation images."""
    rows = [
        f"{p.name.removesuffix('.JPEG')},{p.wnid} 1 2 30 40 {p.wnid} 5 6 7 8 \n"
        for p in photos()["validation"]
    ]
    # Not in the order of the numbers, as the real one.
    table = "ImageId,PredictionString\n" + "".join(sorted(rows, key=lambda r: r[22]))
    mapping = "".join(f"{wnid} {WORDS[wnid]}\n" for wnid in WNIDS)
    base = "ILSVRC/Data/CLS-LOC"
    held_out = {f"{base}/val/{p.name}": p.data for p in photos()["validation"]}
    _write(root, _train_folders(f"{base}/train") | held_out)
    _write(
        root,
        {
            "LOC_val_solution.csv": table.encode(),
            "LOC_synset_mapping.txt": mapping.encode(),
            "LOC_sample_submission.csv": b"ImageId,PredictionString\n",
            "ILSVRC/ImageSets/CLS-LOC/val.txt": b"ILSVRC2012_val_00000001 1\n",
        },
    )


def caffe(root: Path) -> None:
    """Class folders for training, and a flat `val` with Caffe's list."""
    from alexnet_jax.data.sources import imagenet_classes

    order = list(imagenet_classes.words())
    held_out = {f"val/{p.name}": p.data for p in photos()["validation"]}
    lines = [f"{p.name} {order.index(p.wnid)}\n" for p in photos()["validation"]]
    _write(root, _train_folders("train") | held_out)
    _write(root, {"val.txt": "".join(lines).encode()})


def hub_archives(root: Path, *, packed: bool = True) -> None:
    """The Hub's older form: flat archives, WNIDs at the end of the images' names."""
    parts = {"train_images_0": [], "train_images_1": [], "val_images": []}
    for split, members in photos().items():
        for place, photo in enumerate(members):
            part = (
                "val_images" if split == "validation" else f"train_images_{place % 2}"
            )
            stem = photo.name.rpartition("/")[2].removesuffix(".JPEG")
            parts[part].append((f"./{stem}_{photo.wnid}.JPEG", photo.data))
    root.mkdir(parents=True, exist_ok=True)
    ending, mode = ("tar.gz", "w:gz") if packed else ("tar", "w")
    for part, files in parts.items():
        with tarfile.open(root / f"{part}.{ending}", mode) as archive:
            for name, data in files:
                archives.add(archive, name, data)


def parquet(
    root: Path, *, named: bool = True, order: Sequence[int] | None = None
) -> None:
    """Parquet as the Hub lays it out: two files for training, row groups of 7.

    `order` is another order of the training images.
    """
    from pyarrow import Table
    from pyarrow import parquet as files

    note = {
        "image": {"_type": "Image"},
        "label": {"names": WNIDS, "_type": "ClassLabel"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": note}})}
    root.mkdir(parents=True, exist_ok=True)
    for split, members in photos().items():
        if split == "train" and order is not None:
            members = [members[place] for place in order]
        cut = len(members) // 2 if split == "train" else len(members)
        parts = [part for part in (members[:cut], members[cut:]) if part]
        for number, part in enumerate(parts):
            rows = [
                {
                    "image": {"bytes": p.data, "path": p.name if named else None},
                    "label": WNIDS.index(p.wnid),
                }
                for p in part
            ]
            table = Table.from_pylist(rows).replace_schema_metadata(metadata)
            name = f"{split}-{number:05d}-of-{len(parts):05d}.parquet"
            files.write_table(table, root / name, row_group_size=7)


def two_columns(root: Path) -> None:
    """Parquet whose rows have two images without a name: `image` is light, `mask` dark,
    and one mask is damaged."""
    from pyarrow import Table
    from pyarrow import parquet as files

    def png(value: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "PNG")
        return buffer.getvalue()

    rows = [
        {"image": png(200), "mask": png(10), "label": n % 2, "row": n}
        for n in range(40)
    ]
    rows[-1]["mask"] = b"no image"
    root.mkdir(parents=True)
    files.write_table(Table.from_pylist(rows), root / "train.parquet")


def _message(number: int, data: bytes) -> bytes:
    """A field of Protocol Buffers that holds bytes."""
    length, count = b"", len(data)
    while count >= 128:
        length += bytes([count & 127 | 128])
        count >>= 7
    return bytes([number << 3 | 2]) + length + bytes([count]) + data


def example(features: dict[str, bytes | int]) -> bytes:
    """A tf.train.Example, of single bytes and of small numbers."""
    entries = b""
    for key, value in features.items():
        if isinstance(value, bytes):
            feature = _message(1, _message(1, value))
        else:
            feature = _message(3, _message(1, bytes([value])))
        entries += _message(1, _message(1, key.encode()) + _message(2, feature))
    return _message(1, entries)


def record(data: bytes) -> bytes:
    """A record of TFRecord."""
    import google_crc32c

    def checksum(data: bytes) -> bytes:
        value = google_crc32c.value(data)
        turned = (value >> 15 | value << 17) + 0xA282EAD8
        return struct.pack("<I", turned & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def tfrecord(
    root: Path, *, named: bool = True, order: Sequence[int] | None = None
) -> None:
    """As TensorFlow Datasets builds a set whose examples it does not shuffle.

    `order` is another order of the training images.
    """
    kind = "tensorflow_datasets.core.features"
    features = {
        "image": {"pythonClassName": f"{kind}.image_feature.Image"},
        "label": {
            "pythonClassName": f"{kind}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "5"},
        },
        "file_name": {"pythonClassName": f"{kind}.text_feature.Text"},
    }
    if not named:
        del features["file_name"]
    items = [{"featureKey": "image"}, {"featureKey": "label"}]
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {
        "fileFormat": "tfrecord",
        "name": "photos",
        "version": "1.0.0",
        "splits": [
            {
                "filepathTemplate": template,
                "name": split,
                "shardLengths": [str(len(members))],
            }
            for split, members in photos().items()
        ],
        "supervisedKeys": {"tuple": {"items": items}},
    }
    files = {
        "dataset_info.json": json.dumps(info).encode(),
        "features.json": json.dumps({"featuresDict": {"features": features}}).encode(),
        "label.labels.txt": "".join(f"{wnid}\n" for wnid in WNIDS).encode(),
    }
    for split, members in photos().items():
        if split == "train" and order is not None:
            members = [members[place] for place in order]
        files[f"photos-{split}.tfrecord-00000-of-00001"] = b"".join(
            record(
                example(
                    {
                        "file_name": photo.name.encode(),
                        "image": photo.data,
                        "label": WNIDS.index(photo.wnid),
                    }
                )
            )
            for photo in members
        )
    _write(root, files)


def webdataset(root: Path, *, label: str = "number") -> None:
    """Tar shards, two for training; a list of the classes beside them.

    `label` is what gives the class: a `number` or a `text` in `cls`, or `json`.
    """
    files: dict[str, bytes] = {"classes.txt": "\n".join(WNIDS).encode()}
    for split, members in photos().items():
        cut = len(members) // 2 if split == "train" else len(members)
        for number, part in enumerate((members[:cut], members[cut:])):
            inside = {}
            for photo in part:
                stem, value = photo.name.removesuffix(".JPEG"), WNIDS.index(photo.wnid)
                inside[photo.name] = photo.data
                if label == "json":
                    inside[f"{stem}.json"] = json.dumps({"label": value}).encode()
                else:
                    text = photo.wnid if label == "text" else str(value)
                    inside[f"{stem}.cls"] = text.encode()
            if inside:
                files[f"photos-{split}-{number:06d}.tar"] = archives.tar(inside)
    if label == "text":
        del files["classes.txt"]
    _write(root, files)


# The forms that have the set's order and names.
SAME: dict[str, tuple[str, Callable[[Path], None]]] = {
    "archives": ("imagenet", tars),
    "class folders": ("imagenet", class_folders),
    "Kaggle's tree": ("imagenet", kaggle),
    "Caffe's list": ("imagenet", caffe),
    "Parquet": ("parquet", parquet),
    "TFRecord": ("tfds", tfrecord),
    "WebDataset": ("webdataset", webdataset),
}


def opened(source: str, path: Path, fraction: float = 0.25, **options: str) -> Dataset:
    """A set of a kind of source."""
    return registry.open_dataset(
        source=source,
        path=str(path),
        size=SIZE,
        validation_fraction=fraction,
        **options,
    )


def refused(source: str, path: Path, fraction: float = 0.25, **options: str) -> str:
    """The one line of a set that is refused."""
    with pytest.raises(InputError) as caught:
        opened(source, path, fraction, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def away_for_a_while(folder: Path) -> None:
    """A drive that is unmounted, and mounted again."""
    elsewhere = folder.rename(f"{folder}.elsewhere")

    def mount() -> None:
        while not patience.is_waiting():
            time.sleep(0.01)
        elsewhere.rename(folder)

    threading.Thread(target=mount, daemon=True).start()


# A preparation in shards of four images, which is killed at the tenth.
KILLED = """
import os, signal, sys
from pathlib import Path
from alexnet_jax.data.prepared import preparation, shard_writer
preparation.EXAMPLES_WORTH_A_SHARD = 4
written = 0
sums = shard_writer.PixelSums.add
def add(self, image):
    global written
    written += 1
    if written == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    sums(self, image)
shard_writer.PixelSums.add = add
preparation.prepare(source=sys.argv[1], input_path=sys.argv[2],
                    output=Path(sys.argv[3]), size=int(sys.argv[4]), workers=1)
"""


def prepare_and_kill(source: str, path: Path, output: Path, *, size: int) -> None:
    """Prepare a set in a process that is killed on the way."""
    arguments = [source, str(path), str(output), str(size)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments])
    assert done.returncode == -signal.SIGKILL
