import functools
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as files

from alexnet_jax.data.encoded import EncodedSource
from alexnet_jax.data.sources import parquet_reader
from alexnet_jax.runtime import open_files
from alexnet_jax.runtime.errors import InputError

import forms


GENUINE = Path(__file__).with_name("genuine") / "hub"


opened = functools.partial(forms.opened, "parquet")
refused = functools.partial(forms.refused, "parquet")


def colours(source):
    """The red of every image, and its class."""
    examples = [source[index] for index in range(len(source))]
    return [(int(e["image"][0, 0, 0]), e["label"]) for e in examples]


def test_what_the_library_datasets_writes_is_read():
    """See `write_genuine.py`: CIFAR-100's columns; the fine classes are meant."""
    dataset = opened(GENUINE)
    assert dataset.class_names == dataset.class_ids == ("c", "b", "a")
    train, held_out = dataset.splits["train"], dataset.splits["validation"]
    assert colours(train) == [(5 * n, n % 3) for n in range(10)]
    assert colours(held_out) == [(5 * n, n % 3) for n in range(3)]
    assert [train.name(n) for n in (0, 9)] == ["spot0.png", "spot9.png"]
    assert train.where(9).endswith("train-00000-of-00001.parquet, row 9: spot9.png")
    # Its paths are null.
    assert held_out.name(2) == "test/test-00000-of-00001.parquet/2"
    assert held_out.where(2).endswith("test-00000-of-00001.parquet, row 2")
    assert dataset.notes == (
        f"{GENUINE}: the images of test are the validation images",
    )
    other = opened(GENUINE, label_key="coarse_label", image_key="img")
    assert other.class_names == ("even", "odd")
    assert colours(other.splits["train"]) == [(5 * n, n % 2) for n in range(10)]


def test_rows_are_read_in_any_order_and_from_any_copy(monkeypatch):
    """With a cache that holds a single row."""
    monkeypatch.setattr(parquet_reader, "_KEPT_BYTES", 1)
    monkeypatch.setattr(parquet_reader, "_ROWS_AT_ONCE", 1)
    train = opened(GENUINE).splits["train"]
    order = (np.random.default_rng(0).permutation(30) % 10).tolist()
    for source in (train, pickle.loads(pickle.dumps(train))):
        for n in order:
            assert source[n]["image"][0, 0, 0] == 5 * n


def test_each_row_group_is_read_once_in_order(tmp_path, monkeypatch):
    forms.parquet(tmp_path)
    groups = []
    start = parquet_reader._Group.__init__

    def noted(self, path, column, group):
        groups.append((path.name, group))
        start(self, path, column, group)

    monkeypatch.setattr(parquet_reader._Group, "__init__", noted)
    train = opened(tmp_path).splits["train"]
    assert isinstance(train, EncodedSource)
    data = [train.encoded(n).data for n in range(len(train))]
    assert data == [photo.data for photo in forms.photos()["train"]]
    assert groups == [
        (f"train-0000{file}-of-00002.parquet", group)
        for file in range(2)
        for group in range(3)
    ]


def test_only_a_few_files_are_open(tmp_path, monkeypatch):
    """One for each row group that is read nearby, however small they are."""
    monkeypatch.setattr(parquet_reader, "_KEPT_GROUPS", 2)
    forms.parquet(tmp_path)
    train = opened(tmp_path).splits["train"]
    assert isinstance(train, EncodedSource)
    before = open_files.count()
    data = [train.encoded(n).data for n in range(len(train))]
    assert open_files.count() - before <= 2
    assert data == [photo.data for photo in forms.photos()["train"]]


def test_a_file_without_rows_is_refused(tmp_path):
    schema = pa.schema({"image": pa.binary(), "label": pa.int64()})
    files.write_table(schema.empty_table(), tmp_path / "train.parquet")
    assert "has no images of any class" in refused(tmp_path)


IMAGE = {"bytes": b"x", "path": None}


def write(path, rows, **schema):
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(pa.Table.from_pylist(rows, **schema), path)


def test_an_image_s_number_is_no_class(tmp_path):
    rows = [{"image": IMAGE, "label": n % 2, "id": 10**9 + n} for n in range(6)]
    write(tmp_path / "0.parquet", rows)
    with pytest.raises(InputError, match="label 1000000005, which is no number of a"):
        opened(tmp_path, label_key="id")


def test_classes_may_be_numbers_or_text_without_names(tmp_path):
    write(tmp_path / "0.parquet", [{"image": IMAGE, "label": n % 3} for n in range(6)])
    assert opened(tmp_path).class_names == ("0", "1", "2")
    rows = [{"image": b"x", "label": "ba"[n % 2]} for n in range(6)]
    write(tmp_path / "0.parquet", rows)
    dataset = opened(tmp_path / "0.parquet")
    assert dataset.class_names == ("a", "b")
    train = dataset.splits["train"]
    names = [train.name(n) for n in range(len(train))]
    numbers = [int(name.removeprefix("train/0.parquet/")) for name in names]
    assert [train.label(n) for n in range(4)] == [1 - n % 2 for n in numbers]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x", "label": 1}, "has the columns text, label, and none of encoded"),
        (
            {"image": "http://x/1.jpg", "label": 1},
            "none of encoded images; image has text: download what it names",
        ),
        ({"image_url": "x", "label": 1}, "; image_url has text: download what"),
        (
            {"image": {"bytes": None, "path": "https://x/1.jpg"}, "label": 1},
            "has the columns image, label, and none of encoded images",
        ),
        ({"image": IMAGE, "caption": "x"}, "image, caption, and none of classes; say"),
        ({"a": IMAGE, "b": IMAGE, "label": 1}, "say which has the images with --imag"),
        ({"image": IMAGE, "label": -1}, "row 0 has the label -1, and there are 0"),
        ({"image": IMAGE, "label": None, "y": 1.5}, "and none of classes"),
    ],
)
def test_what_is_no_set_of_images_with_classes_is_refused(tmp_path, row, message):
    write(tmp_path / "train.parquet", [row] * 4)
    assert message in refused(tmp_path)


def test_addresses_in_place_of_images_are_refused(tmp_path):
    schema = pa.schema(
        {
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "label": pa.int64(),
        }
    )
    rows = [{"image": {"bytes": None, "path": "https://x/1.jpg"}, "label": 1}] * 4
    write(tmp_path / "train.parquet", rows, schema=schema)
    message = refused(tmp_path)
    assert "has addresses of images (https://x/1.jpg) and no images" in message


def test_an_image_that_is_null_is_one_that_cannot_be_read(tmp_path):
    rows = [{"image": b"x" if n else None, "label": n % 2} for n in range(6)]
    write(tmp_path / "train.parquet", rows)
    dataset = opened(tmp_path)
    messages = []
    for source in dataset.splits.values():
        for index in range(len(source)):
            with pytest.raises(InputError) as caught:
                source[index]
            messages.append(str(caught.value))
    (null,) = [m for m in messages if "no image, only an empty field" in m]
    assert f"{tmp_path}/train.parquet, row 0 has" in null


def test_unlabelled_test_images_are_not_used(tmp_path):
    rows = [{"image": b"x", "label": n % 2} for n in range(8)]
    write(tmp_path / "data" / "train-0.parquet", rows)
    write(tmp_path / "data" / "test-0.parquet", [{"image": b"x", "label": -1}] * 2)
    (tmp_path / "README.md").write_text("about it")
    dataset = opened(tmp_path)
    assert {s: len(x) for s, x in dataset.splits.items()} == {
        "train": 6,
        "validation": 2,
    }
    assert dataset.left_out == {".md": 1, "of split test": 1}


def test_classes_of_one_split_alone(tmp_path):
    rows = [{"image": b"x", "label": "ab"[n % 2]} for n in range(4)]
    write(tmp_path / "train.parquet", rows)
    held_out = [{"image": b"x", "label": label} for label in "ac"]
    write(tmp_path / "validation.parquet", held_out)
    assert "has classes that the training split lacks: c; to leave" in refused(tmp_path)
    write(tmp_path / "train.parquet", [*rows, {"image": b"x", "label": "c"}])
    dataset = opened(tmp_path)
    assert dataset.notes == (
        f"{tmp_path}: 1 of 3 classes have no validation image (b)",
    )
    dataset = opened(tmp_path, other_classes="skip")
    assert dataset.class_names == ("a", "c")
    train = dataset.splits["train"]
    assert [train.label(n) for n in range(3)] == [0, 0, 1]
    assert dataset.left_out == {"of classes that only one split has": 2}


def broken_copy(folder, data):
    """A file beside the folder with these bytes."""
    path = folder.with_name(f"{folder.name}.parquet")
    path.write_bytes(data)
    return path


def test_damaged_files_are_named(tmp_path):
    forms.parquet(tmp_path)
    broken = tmp_path / "train-00001-of-00002.parquet"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-100])
    assert f"{broken} is cut off or no Parquet" in refused(tmp_path)
    column = files.ParquetFile(broken_copy(tmp_path, whole)).metadata.row_group(1)
    page = column.column(0).data_page_offset
    broken.write_bytes(whole[:page] + bytes(8) + whole[page + 8 :])
    train = opened(tmp_path).splits["train"]
    with pytest.raises(
        InputError, match="train-00001-of-00002.parquet, row "
    ) as caught:
        for index in range(len(train)):
            train[index]
    assert "\n" not in str(caught.value)
    broken.unlink()
    write(broken, [{"x": 1}])
    assert f"{broken} has no column image, as the first file has" in refused(tmp_path)
    (tmp_path / "more.parquet").write_bytes(whole)
    assert "nothing says the split of more.parquet; put train," in refused(tmp_path)
    assert "is no file and no folder" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "has no file that ends in .parquet" in refused(tmp_path / "empty")
