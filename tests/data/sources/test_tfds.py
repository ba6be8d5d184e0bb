"""TensorFlow Datasets is an extra: where it is missing these are skipped, not in CI."""

import functools
import importlib.util
import io
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.encoded import FileSource
from alexnet_jax.data.prepared import preparation, verification
from alexnet_jax.data.sources import imagenet_classes, registry
from alexnet_jax.runtime.errors import InputError


def opened(path, fraction=0.25):
    return registry.open_dataset(
        source="tfds", path=str(path), size=16, validation_fraction=fraction
    )


def test_without_the_extra_one_line_says_so(monkeypatch):
    # As if it were not installed: Python refuses to import what is None here.
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"pip install -e .*\[tfds\]"):
        opened("cifar10")


needs_the_extra = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_datasets") is None, reason="an extra"
)


def jpeg(level):
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (level, 20, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


@functools.cache
def builder_class():
    """A set prepared as ArrayRecord; of JPEG files, that needs no TensorFlow."""
    import tensorflow_datasets as tfds

    class Spots(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        counts: ClassVar = {}

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=list("cba")),
                }
            )
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            return {s: self._generate_examples(n) for s, n in self.counts.items()}

        def _generate_examples(self, count):
            for n in range(count):
                yield n, {"image": io.BytesIO(jpeg(9 * n)), "label": n % 3}

    return Spots


def build(folder, counts):
    kind = builder_class()
    kind.counts = counts
    builder = kind(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder


@pytest.mark.slow
@needs_the_extra
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("second", ["validation", "test", None])
def test_a_prepared_set_is_read_without_tensorflow(tmp_path, second, monkeypatch):
    splits = {"train": 12, **({second: 6} if second else {})}
    builder = build(tmp_path, splits)
    by_folder = opened(builder.data_dir)
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    dataset = opened("spots")
    assert dataset.fingerprint == by_folder.fingerprint
    assert dataset.class_names == ("c", "b", "a")
    counts = {split: len(source) for split, source in dataset.splits.items()}
    expected = (
        {"train": 12, "validation": 6} if second else {"train": 9, "validation": 3}
    )
    assert counts == expected
    seen = []
    for source in dataset.splits.values():
        for index in range(len(source)):
            example = source[index]
            level = example["image"][..., 0].mean()
            assert abs(level - 9 * round(level / 9)) < 3
            assert round(level / 9) % 3 == example["label"]
            seen.append(source.name(index))
    assert len(set(seen)) == sum(expected.values())
    output = tmp_path / "prepared"
    monkeypatch.setattr(preparation, "EXAMPLES_WORTH_A_SHARD", 6)
    content = preparation.prepare(
        source="tfds", input_path="spots", output=output, size=16, workers=2
    )
    assert content["counts"] == (
        {**expected, "train": 12} if second else {"train": 11, "validation": 1}
    )
    assert verification.verify(output, workers=1) == []


@pytest.mark.slow
@needs_the_extra
@pytest.mark.filterwarnings("ignore")
def test_a_tfrecord_set_is_found_by_its_name(monkeypatch):
    from tensorflow_datasets.core import constants

    genuine = Path(__file__).with_name("genuine") / "tfds"
    monkeypatch.setattr(constants, "DATA_DIR", str(genuine))
    assert opened("spots").fingerprint == opened(genuine / "spots").fingerprint


@pytest.mark.slow
@needs_the_extra
@pytest.mark.filterwarnings("ignore")
def test_keys_of_an_array_record_are_its_own(tmp_path):
    builder = build(tmp_path, {"train": 12})
    with pytest.raises(InputError, match="is stored as array_record, of which the"):
        registry.open_dataset(
            source="tfds",
            path=str(builder.data_dir),
            size=16,
            validation_fraction=0.1,
            label_key="label",
        )


@pytest.mark.slow
@needs_the_extra
@pytest.mark.filterwarnings("ignore")
def test_what_is_missing_says_the_command(tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(
        InputError,
        match="tfds build imagenette/full-size-v2 --file_format=array_record",
    ) as caught:
        opened("imagenette/full-size-v2")
    assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is not a built set"):
        opened(tmp_path / "empty")
    with pytest.raises(InputError, match="give the set's name"):
        registry.open_dataset(
            source="tfds", path=None, size=16, validation_fraction=0.1
        )


@pytest.mark.slow
@needs_the_extra
def test_imagenet_s_labels_are_those_of_tensorflow_datasets(tmp_path):
    """Its list, and the order of sorted class folders, which torchvision takes."""
    import tensorflow_datasets as tfds

    import archives as fakes

    listed = Path(tfds.__file__).parent / "datasets" / "imagenet2012" / "labels.txt"
    wnids = listed.read_text().split()
    assert wnids == list(imagenet_classes.words())
    # The devkit's numbers order the classes differently.
    order = np.random.default_rng(0).permutation(1000)
    devkit = {wnids[place]: (number + 1, "x") for number, place in enumerate(order)}
    root = tmp_path / "in"
    fakes.write(root, fakes.encode)
    inner = {
        f"{wnid}.tar": fakes.tar({f"{wnid}_1.JPEG": wnid.encode()}) for wnid in devkit
    }
    (root / "ILSVRC2012_img_train.tar").write_bytes(fakes.tar(inner))
    truth = [devkit[wnids[label]][0] for label in (65, 970, 230, 809, 516, 57, 334)]
    kit = fakes.devkit(truth=truth, wnids=devkit)
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(kit)
    dataset = fakes.opened(root)
    assert list(dataset.class_ids) == wnids
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    assert isinstance(train, FileSource) and isinstance(validation, FileSource)
    for index in range(1000):
        _, label, data = train.encoded(index)
        assert data.decode() == wnids[label]
    held_out = [entry.label for entry in validation.entries]
    assert held_out == [65, 970, 230, 809, 516, 57, 334]
