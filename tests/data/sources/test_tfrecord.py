import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from alexnet_jax.data.encoded import EncodedSource
from alexnet_jax.data.sources import tfds_records, tfrecord
from alexnet_jax.runtime.errors import InputError

import forms


GENUINE = Path(__file__).with_name("genuine") / "tfds"


opened = functools.partial(forms.opened, "tfds")
refused = functools.partial(forms.refused, "tfds")


def encoded(source):
    """The bytes and class of every image."""
    assert isinstance(source, EncodedSource)
    return [source.encoded(index)[1:] for index in range(len(source))]


@pytest.mark.parametrize("given", ["spots/1.0.0", "spots", ""])
def test_what_tensorflow_datasets_builds_is_read_in_its_order(monkeypatch, given):
    """See `write_genuine.py`: two shards, and the order in which tfds.load reads them.

    Neither TensorFlow nor TensorFlow Datasets is needed.
    """
    for name in ("tensorflow", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    dataset = opened(GENUINE / given)
    order = json.loads((GENUINE / "order.json").read_text())
    assert dataset.class_names == ("c", "b", "a")
    assert [note.rpartition(": ")[2] for note in dataset.notes] == [
        "the images of test are the validation images"
    ]
    for split, name in (("train", "train"), ("validation", "test")):
        source = dataset.splits[split]
        names = [source.name(index) for index in range(len(source))]
        assert names == order[name]
        for index, name in enumerate(names):
            number = int(name.removeprefix("spot").removesuffix(".png"))
            example = source[index]
            assert example["image"][0, 0].tolist() == [5 * number, 100, 200]
            assert example["label"] == source.label(index) == number % 3


def one_by_one(counts):
    """The order of tf.data's interleave, example by example: 16 shards are open; each
    gives 16 examples in its turn, which ends early where one is asked for in vain."""
    numbers = iter(range(sum(counts)))
    shards = [[next(numbers) for _ in range(count)] for count in counts]
    opened: dict[int, list[int]] = {}
    order, turn = [], 0
    while shards or opened:
        if turn not in opened and shards:
            opened[turn] = shards.pop(0)
        for _ in range(16 if turn in opened else 0):
            if not opened[turn]:
                del opened[turn]
                break
            order.append(opened[turn].pop(0))
        turn = (turn + 1) % 16
    return order


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_shards_is_that_of_tfds_load(seed):
    rng = np.random.default_rng(seed)
    counts = [[3, 2], [18, 0, 17], [16] * 20, []][seed]
    counts = counts or rng.choice([0, 1, 15, 16, 17, 32, 33, 45], 40).tolist()
    assert tfds_records.interleaved(counts).tolist() == one_by_one(counts)


@pytest.fixture
def photos(tmp_path):
    forms.tfrecord(tmp_path / "photos")
    return tmp_path / "photos"


TRAIN = "photos-train.tfrecord-00000-of-00001"


def test_damaged_records_are_named(photos):
    path = photos / TRAIN
    whole = path.read_bytes()
    records = list(tfrecord.read_index(path, ("image",)))
    third = records[3].data
    for cut in (third.start - 5, third.start + 5, third.stop + 1):
        path.write_bytes(whole[:cut])
        assert f"{path}, record 3 is cut off" in refused(photos)
    path.write_bytes(whole[: third.start - 12])
    assert f"{path} has 3 records where dataset_info.json says 40" in refused(photos)
    length = bytearray(whole)
    length[third.start - 12] ^= 1
    path.write_bytes(length)
    assert "record 3 is no TFRecord: its length has the wrong" in refused(photos)
    # A flipped bit in an image is found when it is read.
    image = bytearray(whole)
    image[records[3].places["image"].start + 9] ^= 1
    path.write_bytes(image)
    source = opened(photos).splits["train"]
    assert [source.label(n) for n in (2, 4)] == [source[n]["label"] for n in (2, 4)]
    with pytest.raises(InputError, match="row 3: n01440764/.* is damaged .checksum"):
        source[3]
    path.unlink()
    assert f"{path} can't be read (No such file" in refused(photos)


def test_other_bytes_are_no_examples(photos):
    """Every cut or flip in a message that has its checksum gives an InputError, or an
    Example."""
    path = photos / TRAIN
    message = forms.example({"image": b"x" * 9, "label": 1, "file_name": b"a"})
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        bad = bytearray(message[: rng.integers(1, len(message) + 1)])
        bad[rng.integers(len(bad))] = rng.integers(256)
        path.write_bytes(forms.record(bytes(bad)))
        try:
            list(tfrecord.read_index(path, ("image", "label"), ("file_name",)))
            outcomes.add("read")
        except InputError as error:
            assert f"{path}, record 0 is no Example" in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
    path.write_bytes(forms.record(forms.example({"image": b"x"})))
    assert "record 0 lacks its image or its label" in refused(photos)
    bad = forms.record(forms.example({"image": b"x", "label": 5})) * 40
    path.write_bytes(bad)
    assert "row 0 has the label 5, and there are 5 classes" in refused(photos)


def test_numbers_may_be_negative_or_by_themselves(tmp_path):
    """As other writers than TensorFlow may have them."""
    packed = b"\x0a\x0a" + b"\xff" * 9 + b"\x01"
    alone = b"\x08\x07"
    for value, expected in ((packed, -1), (alone, 7)):
        feature = bytes([3 << 3 | 2, len(value)]) + value
        entry = b"\x0a\x01n" + bytes([2 << 3 | 2, len(feature)]) + feature
        inner = bytes([1 << 3 | 2, len(entry)]) + entry
        message = bytes([1 << 3 | 2, len(inner)]) + inner
        (tmp_path / "x").write_bytes(forms.record(message))
        (found,) = tfrecord.read_index(tmp_path / "x", ("n",))
        assert found.numbers == {"n": expected}


def test_an_array_record_under_another_name_is_one_line(tmp_path):
    """As of somebody who renames files: case 50 does."""
    root = tmp_path / "spots" / "1.0.0"
    shutil.copytree(GENUINE / "spots" / "1.0.0", root)
    for file in root.glob("*tfrecord*"):
        writer = ArrayRecordWriter(str(file), "group_size:1")
        writer.write(b"x")
        writer.close()
    message = refused(root)
    assert "spots-train.tfrecord-00000-of-00002, record 0 is no TFRecord: it is an" in (
        message
    )
    assert "`fileFormat` in dataset_info.json that name, array_record" in message


def test_what_a_set_s_own_files_lack_is_named(photos, tmp_path):
    info = json.loads((photos / "dataset_info.json").read_text())
    features = (photos / "features.json").read_text()

    def change(**values):
        (photos / "dataset_info.json").write_text(json.dumps({**info, **values}))

    change(fileFormat="riegeli")
    assert "is stored as riegeli, and only tfrecord and array_record" in refused(photos)
    change(splits=info["splits"][1:])
    assert "has no split train; it has validation" in refused(photos)
    change(splits=3)
    assert "dataset_info.json is damaged" in refused(photos)
    # As older versions write it, and with a part of `train` held out.
    older = [{"name": "train", "shardLengths": ["40"]}]
    change(splits=older, fileFormat=None, supervisedKeys={})
    dataset = opened(photos)
    assert {s: len(x) for s, x in dataset.splits.items()} == {
        "train": 30,
        "validation": 10,
    }
    assert dataset.class_names[0] == "tench, Tinca tinca"
    assert "text is no Image (--image_key)" in refused(photos, image_key="text")
    (photos / "features.json").write_text(features.replace("ClassLabel", "Tensor"))
    message = refused(photos)
    assert (
        "has the features file_name, image, label; none of them is one Class" in message
    )
    (photos / "features.json").unlink()
    assert "features.json is missing; give the folder of one version" in refused(photos)
    (photos / "dataset_info.json").write_text("{")
    assert "dataset_info.json is damaged" in refused(photos)
    (photos / "dataset_info.json").unlink()
    assert "is not a built set of TensorFlow Datasets; give the" in refused(photos)
    for version in ("1.0.0", "2.0.0"):
        forms.tfrecord(tmp_path / "several" / version)
    assert "(it has 1.0.0, 2.0.0)" in refused(tmp_path / "several")
