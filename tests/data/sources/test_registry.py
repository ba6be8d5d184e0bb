import unicodedata

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.encoded import FileSource
from alexnet_jax.data.sources import folder, registry
from alexnet_jax.runtime.errors import InputError


def open_folder(path, size=64, validation_fraction=0.25, **options):
    return registry.open_dataset(
        source="folder",
        path=str(path),
        size=size,
        validation_fraction=validation_fraction,
        **options,
    )


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def test_a_folder_gives_every_image_once_with_its_class(image_folder):
    dataset = open_folder(image_folder)
    assert dataset.class_names == ("class0", "class1")
    train, held_out = dataset.splits["train"], dataset.splits["validation"]
    assert (len(train), len(held_out)) == (16, 6)
    names = [train.name(index) for index in range(16)]
    assert len(set(names)) == 16
    for index, name in enumerate(names):
        example = train[index]
        assert example["image"].shape == (64, 64, 3)
        assert f"class{example['label']}" in name


def test_without_a_validation_folder_a_part_of_each_class_is_held_out(tmp_path):
    for label in "ab":
        for number in range(8):
            save(tmp_path / label / f"{number}.png", np.zeros((9, 9, 3), np.uint8))
    dataset = open_folder(tmp_path, size=8)
    members = {
        split: {source.name(index) for index in range(len(source))}
        for split, source in dataset.splits.items()
    }
    assert len(members["validation"]) == 4
    assert not members["train"] & members["validation"]
    assert {name[0] for name in members["validation"]} == {"a", "b"}
    again = open_folder(tmp_path, size=8)
    assert again.fingerprint == dataset.fingerprint
    assert again.splits == dataset.splits


def test_a_class_may_be_called_train(tmp_path):
    for label in ("car", "plane", "train"):
        for number in range(4):
            save(tmp_path / label / f"{number}.png", np.zeros((9, 9, 3), np.uint8))
    dataset = open_folder(tmp_path, size=8)
    assert dataset.class_names == ("car", "plane", "train")
    assert len(dataset.splits["train"]) == 9


def test_the_fingerprint_changes_with_the_images(tmp_path):
    for label in "ab":
        for number in range(4):
            save(tmp_path / label / f"{number}.png", np.zeros((9, 9, 3), np.uint8))
    before = open_folder(tmp_path, size=8).fingerprint
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    save(tmp_path / "a" / "0.png", noise)
    assert open_folder(tmp_path, size=8).fingerprint != before


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no class folders"):
        open_folder(tmp_path)
    save(tmp_path / "a" / "0.png", np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="class folder .*/b has no images"):
        open_folder(tmp_path)
    save(tmp_path / "b" / "0.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(InputError, match="class a has 1 image, too few"):
        open_folder(tmp_path)
    (tmp_path / "b" / "0.png").write_bytes(b"no image")
    save(tmp_path / "a" / "1.png", np.zeros((9, 9, 3), np.uint8))
    save(tmp_path / "b" / "1.png", np.zeros((9, 9, 3), np.uint8))
    dataset = open_folder(tmp_path, size=8)
    broken = [
        (source, index)
        for source in dataset.splits.values()
        for index in range(len(source))
        if source.name(index) == "b/0.png"
    ]
    ((source, index),) = broken
    with pytest.raises(InputError, match=r"b/0.png is not an image"):
        source[index]
    (tmp_path / "b" / "0.png").write_bytes(b"longer than it was")
    with pytest.raises(InputError, match=r"b/0.png no longer has its 8 bytes"):
        source[index]


def write(root, *names):
    """Files that are named as images, which is enough where none is decoded."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")


def refused(root):
    with pytest.raises(InputError) as caught:
        open_folder(root, size=8)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names_of(dataset):
    return {
        split: [source.name(index) for index in range(len(source))]
        for split, source in dataset.splits.items()
    }


def test_validation_classes_must_be_among_the_training_classes(tmp_path):
    write(tmp_path, "train/a/0.png", "train/b/0.png", "val/a/0.png", "val/z/0.png")
    assert "classes that" in (message := refused(tmp_path))
    assert "/train lacks: z; to leave out the images of such classes, give" in message
    write(tmp_path, "val/z/1.png", "train/c/0.png", "val/c/0.png")
    dataset = open_folder(tmp_path, size=8, other_classes="skip")
    assert dataset.class_names == ("a", "c")
    assert names_of(dataset) == {
        "train": ["train/a/0.png", "train/c/0.png"],
        "validation": ["val/a/0.png", "val/c/0.png"],
    }
    assert [dataset.splits["train"].label(index) for index in (0, 1)] == [0, 1]
    assert dataset.left_out == {"of classes that only one split has": 3}


def test_a_link_to_nowhere_is_an_unreadable_image(tmp_path):
    write(tmp_path, *(f"{c}/{n}.png" for c in "ab" for n in range(3)))
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "nowhere.png")
    names, dataset = {}, open_folder(tmp_path, size=8)
    for split, source in dataset.splits.items():
        for index in range(len(source)):
            names[source.name(index)] = (split, index)
    assert len(names) == 7
    split, index = names["a/link.png"]
    with pytest.raises(
        InputError, match="a/link.png is a link to .*nowhere.png, which"
    ):
        dataset.splits[split][index]
    (tmp_path / "c").symlink_to(tmp_path / "unmounted")
    assert "/c is a link to" in (message := refused(tmp_path))
    assert "Mount it" in message


def test_a_validation_set_of_none_is_refused(tmp_path):
    write(tmp_path, *(f"train/{c}/{n}.png" for c in "ab" for n in range(3)))
    (tmp_path / "val").mkdir()
    assert "/val has no class folders; validation images are" in refused(tmp_path)
    write(tmp_path, "val/ILSVRC2012_val_00000001.JPEG", "val/labels.csv")
    message = refused(tmp_path)
    assert "/val has no class folders (it has 1 image, 1 .csv)" in message
    assert "ILSVRC2012_devkit_t12.tar.gz" in message
    write(tmp_path, "val/a/0.png")
    dataset = open_folder(tmp_path, size=8)
    assert names_of(dataset)["validation"] == ["val/a/0.png"]
    assert dataset.left_out == {".csv": 1, "in no class folder": 1}
    (note,) = dataset.notes
    assert note == f"{tmp_path}: 1 of 2 classes have no validation image (b)"
    write(tmp_path, "val/b/0.png")
    assert open_folder(tmp_path, size=8).notes == ()


@pytest.mark.parametrize(
    ("train", "second"),
    [
        ("Train", "Val"),
        ("TRAIN", "VALIDATION"),
        ("Training", "Validation"),
        ("training_set", "validation_set"),
        ("train_images", "val_images"),
        ("train2017", "val2017"),
        ("seg_train", "seg_val"),
        ("birds-train", "birds-valid"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
        ("seg_train/seg_train", "seg_val/seg_val"),
    ],
)
def test_splits_are_known_by_what_people_call_them(tmp_path, train, second):
    write(tmp_path, *(f"{train}/{c}/{n}.png" for c in "ab" for n in range(3)))
    write(tmp_path, *(f"{second}/{c}/0.png" for c in "ab"))
    dataset = open_folder(tmp_path, size=8)
    assert dataset.class_names == ("a", "b")
    assert names_of(dataset) == {
        "train": [f"{train}/{c}/{n}.png" for c in "ab" for n in range(3)],
        "validation": [f"{second}/{c}/0.png" for c in "ab"],
    }
    assert dataset.left_out == {}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("Training", "Testing"),
        ("training_set/training_set", "test_set/test_set"),
        ("seg_train", "seg_test"),
    ],
)
def test_test_images_are_neither_a_class_nor_used(tmp_path, train, test):
    write(tmp_path, *(f"{train}/{c}/{n}.png" for c in "ab" for n in range(4)))
    write(tmp_path, f"{test}/a/0.png", f"{test}/b/0.png")
    dataset = open_folder(tmp_path, size=8)
    assert dataset.class_names == ("a", "b")
    names = names_of(dataset)
    assert len(names["train"]) == 6
    assert len(names["validation"]) == 2
    assert all(name.startswith(train) for split in names.values() for name in split)
    assert dataset.left_out == {f"in {test.partition('/')[0]}": 2}
    (note,) = dataset.notes
    assert note.endswith("to validate on it, name it validation")


@pytest.mark.parametrize(
    "folders",
    [
        "cat dog test",
        "cat dog validation",
        "valid/x invalid/x",
        "Training/x cat/x dog/x",
        "train_1/x train_2/x test/x",
        "cat_train/x cat_test/x dog_train/x dog_test/x",
        "car train plane test",
        "fold_1/a fold_1/b fold_2/a fold_2/b",
    ],
)
def test_where_splits_and_classes_are_in_doubt_it_stops(tmp_path, folders):
    write(tmp_path, *(f"{f}/{n}.png" for f in folders.split() for n in range(3)))
    message = refused(tmp_path)
    assert "which may be splits or classes" in message
    assert "if they are splits, name them train and validation" in message
    # As the message says: all of them are classes.
    names = sorted({part.partition("/")[0] for part in folders.split()})
    for name in names:
        (tmp_path / name).rename(tmp_path / f"moved {name}")
    (tmp_path / "again" / "train").mkdir(parents=True)
    for name in names:
        (tmp_path / f"moved {name}").rename(tmp_path / "again" / "train" / name)
    assert list(open_folder(tmp_path / "again", size=8).class_names) == names


@pytest.mark.parametrize(
    "folders",
    [
        "freight_train steam_train",
        "car plane train",
        "tested untested",
        # Parts of each class, fewer than the classes.
        "cat/left cat/right cow/left cow/right dog/left dog/right",
        "cat/left cat/right dog/back dog/right",
    ],
)
def test_names_that_are_like_splits_may_be_classes(tmp_path, folders):
    write(tmp_path, *(f"{f}/{n}.png" for f in folders.split() for n in range(3)))
    names = sorted({part.partition("/")[0] for part in folders.split()})
    assert list(open_folder(tmp_path, size=8).class_names) == names


def test_the_spellings_of_a_name_are_one_class(tmp_path):
    apart, composed = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
    write(tmp_path, f"train/{apart}/0.png", "train/tea/0.png")
    write(tmp_path, f"val/{composed}/1.png", f"train/{composed}/2.png")
    dataset = open_folder(tmp_path, size=8)
    assert dataset.class_names == (apart, "tea")
    assert names_of(dataset) == {
        "train": [f"train/{apart}/0.png", f"train/{composed}/2.png", "train/tea/0.png"],
        "validation": [f"val/{composed}/1.png"],
    }
    held_out = dataset.splits["validation"]
    assert isinstance(held_out, FileSource)
    assert held_out.entries[0].label == 0


def test_a_single_class_is_refused(tmp_path):
    write(tmp_path, *(f"up/two/{c}/{n}.png" for c in "ab" for n in range(3)))
    message = refused(tmp_path / "up")
    assert "has one class folder, two" in message
    assert message.endswith(f"(a, b) are the classes, give {tmp_path}/up/two")
    assert "has no class folders (it has 3 images)" in refused(tmp_path / "up/two/a")
    write(tmp_path, "one/train/a/0.png", "one/val/a/0.png")
    assert "has one class folder, train/a" in refused(tmp_path / "one")


def test_a_folder_s_own_classes_label_its_images(tmp_path):
    write(tmp_path, "train/b/0.png", "train/a/0.png", "val/b/x/1.png", "0.png")
    write(tmp_path, "test/2.png", "test/a/3.png", "notes.txt")
    found = folder.images_by_class(tmp_path)
    assert found.class_names == ("a", "b")
    labels = dict(zip([f.path for f in found.images], found.labels, strict=True))
    assert labels == {
        "0.png": folder.NO_LABEL,
        "test/2.png": folder.NO_LABEL,
        "test/a/3.png": 0,
        "train/a/0.png": 0,
        "train/b/0.png": 1,
        "val/b/x/1.png": 1,
    }
    assert found.left_out == {".txt": 1}
    # Classes are sorted as those of a run on the folder.
    assert open_folder(tmp_path, size=8).class_names == found.class_names
    # In doubt the folders are the classes, and nothing is refused.
    write(tmp_path, "doubt/cat/0.png", "doubt/test/0.png")
    assert folder.images_by_class(tmp_path / "doubt").class_names == ("cat", "test")


def test_the_digits_are_those_of_scikit_learn_and_split_once():
    from sklearn.datasets import load_digits
    from sklearn.utils import Bunch

    dataset = registry.open_dataset(
        source="digits", path=None, size=72, validation_fraction=0.2
    )
    train, held_out = dataset.splits["train"], dataset.splits["validation"]
    names = [s.name(i) for s in (train, held_out) for i in range(len(s))]
    assert sorted(map(int, names)) == list(range(1797))
    assert len(held_out) == 359
    digits = load_digits()
    assert isinstance(digits, Bunch)
    for index in (0, 100, 358):
        example, place = held_out[index], int(held_out.name(index))
        assert example["label"] == digits.target[place]
        blocks = example["image"][:, :, 0].reshape(8, 9, 8, 9).mean(axis=(1, 3))
        correlation = np.corrcoef(blocks.ravel(), digits.images[place].ravel())[0, 1]
        assert correlation > 0.97


def test_wnids_have_readable_names_and_stay_what_tells_classes_apart(tmp_path):
    write(tmp_path, *(f"{c}/{n}.png" for c in ("n02119789", "n01440764") for n in "01"))
    dataset = open_folder(tmp_path, size=8)
    assert dataset.class_ids == ("n01440764", "n02119789")
    assert dataset.class_names == ("tench, Tinca tinca", "kit fox, Vulpes macrotis")
    write(tmp_path, "other/0.png", "other/1.png")
    assert open_folder(tmp_path, size=8).class_names[0] == "n01440764"


def test_options_that_a_source_lacks_are_refused(tmp_path):
    with pytest.raises(InputError, match="data.label_key=x has no meaning for"):
        open_folder(tmp_path, label_key="x")
    with pytest.raises(InputError, match="data.other_classes='ask' unknown"):
        open_folder(tmp_path, other_classes="ask")


def test_unknown_sources_and_fractions():
    with pytest.raises(
        InputError,
        match="choose from arrays, digits, folder, imagenet, parquet, prepared, tfds, "
        "webdataset, or give a function of your own",
    ):
        registry.open_dataset(source="tape", path=None, size=8, validation_fraction=0.1)
    with pytest.raises(InputError, match="between 0 and 1"):
        registry.open_dataset(
            source="digits", path=None, size=8, validation_fraction=1.0
        )
    with pytest.raises(InputError, match="no meaning for the digits"):
        registry.open_dataset(
            source="digits", path="x", size=8, validation_fraction=0.1
        )
