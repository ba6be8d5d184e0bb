"""Writes `tests/data/sources/genuine/`: small sets as the tools themselves write them.

Not part of the tests, which read what it has written. It needs an environment of its
own, with 2 GB for TensorFlow, without which TensorFlow Datasets writes no TFRecord:

    python -m venv writers
    writers/bin/pip install tensorflow-cpu==2.21.0 tensorflow-datasets==4.9.10 \
        importlib_resources datasets==5.2.0 webdataset==1.0.2
    writers/bin/python tests/support/write_genuine.py tests/data/sources/genuine

`tfds/` is TFRecord by tensorflow-datasets, in shards, and `order.json` the order in
which tfds.load gives its images; `hub/` is Parquet by datasets, with the columns of
CIFAR-100; `webdataset/` is a shard by webdataset. Every image is a PNG of one colour:
its red is 5 times its number, and its class that number modulo 3.
"""

# pyright: reportMissingImports=false, reportCallIssue=false

import io
import json
import sys
from pathlib import Path

import datasets
import numpy as np
import tensorflow_datasets as tfds
import webdataset
from PIL import Image


NAMES = ["c", "b", "a"]
COUNTS = {"train": 45, "test": 6}


def png(number):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (5 * number, 100, 200)).save(buffer, "PNG")
    return buffer.getvalue()


class Spots(tfds.core.GeneratorBasedBuilder):
    """Spots of one colour."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=NAMES),
                "file_name": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(n) for split, n in COUNTS.items()}

    def _generate_examples(self, count):
        for n in range(count):
            image = io.BytesIO(png(n))
            yield n, {"image": image, "label": n % 3, "file_name": f"spot{n}.png"}


def write_tfds(folder):
    """TFRecord, in two shards."""
    builder = Spots(data_dir=folder, file_format="tfrecord")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=2)
    )
    order = {
        split: [
            example["file_name"].decode()
            for example in tfds.as_numpy(
                builder.as_dataset(split=split, shuffle_files=False)
            )
        ]
        for split in COUNTS
    }
    (folder / "order.json").write_text(json.dumps(order) + "\n")


def write_hub(folder):
    """Parquet with row groups of 4, images named in one split and not in the other."""
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=NAMES),
            "coarse_label": datasets.ClassLabel(names=["even", "odd"]),
        }
    )
    for split, count in (("train", 10), ("test", 3)):
        rows = [
            {
                "img": {
                    "bytes": png(n),
                    "path": f"spot{n}.png" if split == "train" else None,
                },
                "fine_label": n % 3,
                "coarse_label": n % 2,
            }
            for n in range(count)
        ]
        made = datasets.Dataset.from_list(rows, features=features)
        made.to_parquet(folder / f"{split}-00000-of-00001.parquet", batch_size=4)


def write_webdataset(folder):
    """One shard of four images of two classes."""
    pattern = f"{folder}/spots-train-%03d.tar"
    # A whole number, so that headers stay small.
    with webdataset.ShardWriter(pattern, maxcount=100, mtime=0) as sink:
        for n in (0, 1, 3, 4):
            sink.write({"__key__": f"spot{n}", "png": png(n), "cls": n % 3})


def main():
    root = Path(sys.argv[1])
    np.random.seed(0)
    for name, write in (
        ("tfds", write_tfds),
        ("hub", write_hub),
        ("webdataset", write_webdataset),
    ):
        (root / name).mkdir(parents=True)
        write(root / name)


if __name__ == "__main__":
    main()
