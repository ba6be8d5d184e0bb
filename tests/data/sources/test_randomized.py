import dataclasses

import numpy as np
import pytest

from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.data.sources import registry
from alexnet_jax.data.sources.randomized import corrupt
from alexnet_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def digits():
    return registry.open_dataset(
        source="digits", path=None, size=9, validation_fraction=0.2
    )


def labels(source):
    return np.asarray([source[index]["label"] for index in range(len(source))])


def changed(digits, **what):
    return corrupt(
        digits, **{"random_labels": 0.0, "pixels": "true", "seed": 3, **what}
    )


@pytest.mark.parametrize("part", [0.3, 1.0])
def test_a_part_of_the_training_labels_is_drawn_from_all_classes(digits, part):
    true = labels(digits.splits["train"])
    dataset = changed(digits, random_labels=part)
    found = labels(dataset.splits["train"])
    # Of those drawn a tenth comes out true.
    wrong, expected = np.mean(found != true), 0.9 * part
    deviation = np.sqrt(expected * (1 - expected) / len(true))
    assert abs(wrong - expected) < 4 * deviation
    if part == 1:
        counts = np.bincount(found, minlength=10) / len(found)
        assert np.abs(counts - 0.1).max() < 4 * np.sqrt(0.09 / len(found))
        assert abs(np.corrcoef(found, true)[0, 1]) < 4 / np.sqrt(len(true))
    np.testing.assert_array_equal(found, labels(dataset.splits["train"]))
    again = changed(digits, random_labels=part)
    np.testing.assert_array_equal(found, labels(again.splits["train"]))
    other = changed(digits, random_labels=part, seed=4)
    assert (found != labels(other.splits["train"])).any()
    assert len({digits.fingerprint, dataset.fingerprint, other.fingerprint}) == 3


def test_validation_labels_and_all_images_stay_true(digits):
    dataset = changed(digits, random_labels=1.0)
    held_out = digits.splits["validation"]
    np.testing.assert_array_equal(
        labels(dataset.splits["validation"]), labels(held_out)
    )
    for index in range(20):
        np.testing.assert_array_equal(
            dataset.splits["train"][index]["image"],
            digits.splits["train"][index]["image"],
        )


def moved(before, after):
    """Where each pixel went, for an image of distinct pixels."""
    return [int(np.flatnonzero((before == pixel).all(-1))[0]) for pixel in after]


class Distinct:
    """Images of which no two pixels are alike."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        image = np.stack([rng.permutation(81) for _ in range(3)], axis=-1)
        return {"image": image.reshape(9, 9, 3).astype(np.uint8), "label": 0}

    def label(self, index):
        return 0

    def name(self, index):
        return str(index)

    where = name


@pytest.mark.parametrize("pixels", ["shuffled", "random"])
def test_pixels_move_together_or_each_image_for_itself(digits, pixels):
    splits = {"train": Distinct(), "validation": Distinct()}
    dataset = changed(dataclasses.replace(digits, splits=splits), pixels=pixels)
    orders = []
    for split in ("train", "validation"):
        for index in range(6):
            before = splits[split][index]["image"].reshape(-1, 3)
            after = dataset.splits[split][index]["image"].reshape(-1, 3)
            orders.append(tuple(moved(before, after)))
            assert sorted(orders[-1]) == list(range(81))
            assert orders[-1] != tuple(range(81))
    assert len(set(orders)) == (1 if pixels == "shuffled" else 12)


def test_nothing_to_change_changes_nothing(digits):
    assert changed(digits) is digits


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"random_labels": 1.5}, "data.random_labels=1.5 must lie from 0 to 1"),
        ({"pixels": "moved"}, "choose from true, shuffled, random"),
        ({"seed": -1}, "data.corruption_seed=-1 must not be negative"),
    ],
)
def test_arguments_out_of_range_are_refused(digits, what, message):
    with pytest.raises(InputError, match=message):
        changed(digits, **what)


def test_the_data_section_takes_them():
    pipeline = pipelines.open_pipeline(
        source="digits", size=77, crop=67, random_labels=1.0, corruption_seed=5
    )
    true = pipelines.open_pipeline(source="digits", size=77, crop=67)
    found = labels(pipeline.dataset.splits["train"])
    assert np.mean(found == labels(true.dataset.splits["train"])) < 0.2
