import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.sources import registry
from alexnet_jax.runtime.errors import InputError


def open_folder(path, size=64, validation_fraction=0.25):
    return registry.open_dataset(
        source="folder",
        path=str(path),
        size=size,
        validation_fraction=validation_fraction,
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


def test_validation_classes_must_be_among_the_training_classes(tmp_path):
    for name in ("train/a", "val/a", "val/z"):
        save(tmp_path / name / "0.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(InputError, match="classes that .*/train lacks: z"):
        open_folder(tmp_path)


def test_a_link_to_nowhere_is_no_image_and_validation_needs_train(tmp_path):
    for number in range(3):
        save(tmp_path / "a" / f"{number}.png", np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "nowhere.png")
    assert len(open_folder(tmp_path, size=8).splits["train"]) == 2
    (tmp_path / "val").mkdir()
    with pytest.raises(InputError, match="a val folder but none of train"):
        open_folder(tmp_path, size=8)


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


def test_unknown_sources_and_fractions():
    with pytest.raises(
        InputError, match="choose from digits, folder, imagenet, prepared, tfds"
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
