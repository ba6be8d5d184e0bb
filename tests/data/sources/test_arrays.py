import numpy as np
import pytest

from alexnet_jax.data.loading.grain_datasets import train_dataset
from alexnet_jax.data.loading.pipeline import Pipeline, reading
from alexnet_jax.data.sources.arrays import array_dataset, open_arrays
from alexnet_jax.runtime.errors import InputError


NAMES = ("zero", "one", "two")


def arrays(size=9):
    rng = np.random.default_rng(0)
    counts = {"train": 20, "validation": 6}
    images = {
        split: rng.integers(0, 256, (count, size, size, 3), np.uint8)
        for split, count in counts.items()
    }
    labels = {split: np.arange(count) % 3 for split, count in counts.items()}
    return images, labels


def test_examples_are_those_of_the_arrays():
    images, labels = arrays()
    dataset = array_dataset(images, labels, NAMES)
    assert (dataset.size, dataset.class_names) == (9, NAMES)
    for split, source in dataset.splits.items():
        assert len(source) == len(images[split])
        assert len({source.name(index) for index in range(len(source))}) == len(source)
        for index, image in enumerate(images[split]):
            np.testing.assert_array_equal(source[index]["image"], image)
            assert source[index]["label"] == labels[split][index]


def test_statistics_equal_numpy_on_the_training_images():
    images, labels = arrays()
    statistics = array_dataset(images, labels, NAMES).statistics
    assert statistics is not None
    train = images["train"].astype(float)
    np.testing.assert_array_equal(
        statistics.mean, train.mean(axis=0).astype(np.float32)
    )
    covariance = np.cov(train.reshape(-1, 3).T, bias=True)
    found = statistics.directions @ np.diag(statistics.deviations**2)
    np.testing.assert_allclose(found @ statistics.directions.T, covariance, rtol=1e-6)


def test_the_fingerprint_is_of_the_content():
    def fingerprint(change=lambda images, labels: None, names=NAMES):
        images, labels = arrays()
        change(images, labels)
        return array_dataset(images, labels, names).fingerprint

    def pixel(images, labels):
        images["validation"][5, 8, 8, 2] ^= 1

    def label(images, labels):
        labels["train"][0] = 2

    def swap(images, labels):
        for split in images.values():
            split[[0, 1]] = split[[1, 0]]

    def narrow(images, labels):
        labels.update({split: some.astype(np.int32) for split, some in labels.items()})

    def copy(images, labels):
        images["train"] = np.asfortranarray(images["train"])

    others = [fingerprint(change) for change in (pixel, label, swap)]
    others.append(fingerprint(names=("zero", "one", "three")))
    assert len({fingerprint(), *others}) == 5
    assert fingerprint() == fingerprint(narrow) == fingerprint(copy)


def test_a_pipeline_is_made_from_arrays_in_one_call():
    images, labels = arrays()
    dataset = array_dataset(images, labels, NAMES)
    pipeline = Pipeline(dataset, crop=9, crops=False, flip=False)
    assert dataset.statistics is not None
    batches = train_dataset(pipeline, dataset.statistics, batch_size=20, seed=0)
    batch = batches[0]
    assert batch is not None
    seen = sorted(image.tobytes() for image in batch["image"])
    assert seen == sorted(image.tobytes() for image in images["train"])
    with pytest.raises(InputError, match="data.crop=224 must lie between 1 and"):
        Pipeline(dataset)


def test_reading_leaves_out_the_keys_that_choose_the_data():
    section = {"source": "folder", "path": "x", "random_labels": 1.0, "crop": 9}
    assert reading(section) == {"crop": 9}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, labels: labels.pop("train"), "give both of train and"),
        (
            lambda images, labels: images.update(train=np.zeros((20, 9, 9), np.uint8)),
            "images of train are uint8 of .20, 9, 9.; give uint8",
        ),
        (
            lambda images, labels: images.update(train=np.zeros((20, 9, 9, 3))),
            "images of train are float64",
        ),
        (
            lambda images, labels: images.update(
                validation=np.zeros((6, 8, 8, 3), np.uint8)
            ),
            "images of validation .*the size of the training images",
        ),
        (
            lambda images, labels: labels.update(train=np.arange(19) % 3),
            "as many labels .19.",
        ),
        (
            lambda images, labels: labels.update(train=np.zeros(20)),
            "labels of train are float64",
        ),
        (
            lambda images, labels: labels.update(train=np.arange(20) % 4),
            "lie from 0 to 3, with 3 class names",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    images, labels = arrays()
    change(images, labels)
    with pytest.raises(InputError, match=message) as caught:
        array_dataset(images, labels, NAMES)
    assert "\n" not in str(caught.value)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, arrays()[0]["train"])
    with pytest.raises(InputError, match="is no file of arrays .*no .npz"):
        open_arrays(str(path), 9, 0.1)


@pytest.mark.parametrize("names", [np.arange(3), np.array([b"a", b"b", b"c"])])
def test_class_names_may_be_numbers_or_bytes(tmp_path, names):
    images, labels = arrays()
    path = tmp_path / "set.npz"
    stored = {f"{split}_images": images[split] for split in images}
    stored |= {f"{split}_labels": labels[split] for split in labels}
    np.savez(path, class_names=names, **stored)  # type: ignore
    expected = ("0", "1", "2") if names.dtype.kind == "i" else ("a", "b", "c")
    assert open_arrays(str(path), 9, 0.1).class_names == expected


@pytest.mark.parametrize("damage", ["deflated", "scalar"])
def test_a_damaged_file_of_arrays_is_one_line(tmp_path, damage):
    path = tmp_path / "set.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 8, 8, 3), np.uint8)
    labels = np.asarray(0) if damage == "scalar" else np.asarray([0, 1, 0, 1])
    np.savez_compressed(
        path,
        class_names=np.asarray(["a", "b"]),
        train_images=images,
        train_labels=labels,
        validation_images=images,
        validation_labels=labels,
    )
    if damage == "deflated":
        content = bytearray(path.read_bytes())
        content[200:260] = b"\xff" * 60
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_arrays(str(path), 8, 0.5)
    assert "\n" not in str(caught.value)
