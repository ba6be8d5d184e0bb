"""Splits held by the devices: the same bits as from the host."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from alexnet_jax import preset_config
from alexnet_jax.data.dataset import Dataset, Example, Source
from alexnet_jax.data.loading import first_pass, grain_datasets, prefetch
from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.selection import WrappedSource
from alexnet_jax.distributed import placement
from alexnet_jax.runs import holding
from alexnet_jax.runs.setup import build_setup
from alexnet_jax.runs.validation import make_validation
from alexnet_jax.runtime.errors import InputError, Interrupted, UnreadableImage
from alexnet_jax.training import held as held_splits
from alexnet_jax.training import step

from networks import mesh_of, replicated, tiny


MESHES = [(1, 1), (2, 1), (1, 2)]
IDS = ["1x1", "2x1", "1x2"]


@pytest.fixture(params=MESHES, ids=IDS)
def mesh(request):
    return mesh_of(*request.param)


def some(batches: Iterator[HostBatch]) -> list[HostBatch]:
    return [next(batches) for _ in range(4)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"crops": False},
        {"random_labels": 0.5, "pixels": "random"},
        {"crop_area": 0.2, "mixup": 0.2},
        {"cutmix": 1.0, "randaugment": 0.3},
    ],
    ids=["mirrors", "centre", "random", "resized and mixed", "patches and operations"],
)
def test_the_devices_cut_what_the_host_sends(mesh, settings, image_folder, monkeypatch):
    """Four batches, over the end of an epoch, and parts with padding in the last."""
    monkeypatch.setattr(holding, "PART_BYTES", 7 * 20 * 20 * 3)
    opened = pipelines.open_pipeline(
        source="folder", path=str(image_folder), size=20, crop=16, **settings
    )
    statistics = first_pass.read_all(opened).statistics
    assert statistics is not None
    draws = {"statistics": statistics, "batch_size": 8, "seed": 4}
    # A place of two numbers, or a box of four; a weight, and a patch of four; two
    # operations and their strengths; and what all have.
    place = 4 if "crop_area" in settings else 2
    weight = 1 if "mixup" in settings else 1 + 4 if "cutmix" in settings else 0
    operations = 2 * 2 if "randaugment" in settings else 0
    drawn = 8 * ((place + weight + operations) * 4 + 4 + 1 + 12)
    from_host = grain_datasets.train_dataset(opened, **draws)
    of_held = grain_datasets.train_dataset(opened, **draws, held=True)
    held = holding.hold(opened, "train", mesh, lambda: None)
    cut = held_splits.make_train_cut(held, mesh, crop=16)
    with (
        prefetch.read(opened, from_host) as images,
        prefetch.read(opened, of_held) as places,
    ):
        for image, place in zip(some(images), some(places), strict=True):
            assert sum(array.nbytes for array in place.values()) == drawn
            expected = placement.to_devices(image, mesh)
            found = cut(placement.to_devices(place, mesh))
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                assert found[name].dtype == array.dtype
                assert found[name].sharding.is_equivalent_to(array.sharding, array.ndim)
                np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_evaluation_sees_the_same_images(mesh):
    """Also padding, in the last batch and past the last part."""
    opened = digits(validation_fraction=0.03)
    held = holding.hold(opened, "validation", mesh, lambda: None)
    cut = held_splits.make_evaluation_cut(held, mesh)
    images, places = (
        grain_datasets.evaluation_dataset(
            opened, "validation", batch_size=20, held=held
        )
        for held in (False, True)
    )
    masks = []
    for image, place in zip(images, places, strict=True):
        assert image is not None and place is not None
        masks.append(image["mask"])
        found = cut(placement.to_devices(place, mesh))
        assert found.keys() == image.keys()
        for name, array in image.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert len(masks) == 3 and not masks[-1].all()


@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, marks=pytest.mark.slow) for shape in MESHES[:2]] + MESHES[2:],
)
def test_a_held_validation_split_has_the_same_errors(shape):
    """Ten views, and a last batch that is not full."""
    mesh = mesh_of(*shape)
    opened = pipelines.open_pipeline(
        source="digits", size=70, crop=67, validation_fraction=0.01
    )
    model = tiny(num_classes=10)
    validate = make_validation(
        model=model, mesh=mesh, pipeline=opened, batch_size=8, views=10
    )
    abstract = step.abstract_params(model, mesh, 67)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: jax.device_put(rng.normal(0, 0.1, a.shape).astype("f4"), a.sharding),
        abstract,
    )
    mean = jax.device_put(np.full((67, 67, 3), 120, np.float32), replicated(mesh))
    held = holding.hold(opened, "validation", mesh, lambda: None)
    cut = held_splits.make_evaluation_cut(held, mesh)
    expected = validate(params, mean, lambda: None)
    assert validate(params, mean, lambda: None, cut) == expected
    assert expected["loss"] > 1


class Large(WrappedSource):
    """The examples of a source, again and again."""

    def __init__(self, source: Source, count: int) -> None:
        super().__init__(source)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return self.source[index % len(self.source)]


def digits(**settings: Any) -> Pipeline:
    return pipelines.open_pipeline(source="digits", size=20, crop=16, **settings)


def with_train(opened: Pipeline, train: Source) -> Pipeline:
    splits = {**opened.dataset.splits, "train": train}
    dataset: Dataset = dataclasses.replace(opened.dataset, splits=splits)
    return dataclasses.replace(opened, dataset=dataset)


def test_what_is_held(capsys):
    mesh = mesh_of(1, 1)
    assert holding.choose(digits(hold="device"), mesh) == ("train", "validation")
    assert holding.choose(digits(), mesh) == ()
    assert holding.choose(digits(hold="host"), mesh) == ()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("hold", "memory", "held"),
    [
        ("auto", 1.01 / 0.4, ("train", "validation")),
        ("auto", 0.95 / 0.4, ("train",)),
        ("auto", 0.89 / 0.4, ()),
        ("device", 0.91 / 0.8, ("train",)),
        ("device", 1.01 / 0.8, ("train", "validation")),
        ("host", 1000, ()),
        ("auto", 0, ()),
        ("device", 0, ("train", "validation")),
    ],
)
def test_training_images_come_first(hold, memory, held, capsys):
    """Of the 1,797 digits nine tenths; memory in the bytes of all."""
    opened = digits(hold=hold)
    both = sum(holding.held_bytes(opened, split) for split in holding.SPLITS)
    assert both == 1797 * (20 * 20 * 3 + 4)
    assert holding.fitting(opened, round(memory * both)) == held
    said = capsys.readouterr().err.splitlines()
    if hold == "auto" and memory and not held:
        (line,) = said
        assert line.startswith("images are read from the host for every step: 1,617 ")
        assert "need 0.00195 GB on each device, and 0.00193 GB are available" in line
        assert "set --config.data.hold=device" in line
    else:
        assert not said


def test_what_does_not_fit_is_one_line():
    opened = digits(hold="device")
    large = with_train(opened, Large(opened.dataset.splits["train"], 10**9))
    needs = (
        r"data.hold=device: 1,000,000,000 training images of 20 pixels need "
        r"1.2e\+03 GB on each device, and [\d.]+ GB are available there"
    )
    with pytest.raises(InputError, match=needs):
        holding.choose(large, mesh_of(1, 1))


def test_an_unknown_place_is_named():
    with pytest.raises(InputError, match="data.hold='gpu' unknown; choose from auto"):
        digits(hold="gpu")


def test_a_signal_ends_the_reading():
    opened = digits()

    def check() -> None:
        raise Interrupted(2)

    with pytest.raises(Interrupted):
        holding.hold(opened, "train", mesh_of(1, 1), check)


class Counted(WrappedSource):
    """A source that notes which examples are read."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.read: list[int] = []

    def __getitem__(self, index: int) -> Example:
        self.read.append(index)
        return self.source[index]


@pytest.mark.parametrize("broken", [False, True], ids=["whole", "one image broken"])
def test_images_read_for_their_statistics_are_not_read_again(
    broken: bool, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless some are left out."""
    monkeypatch.setattr(holding, "PART_BYTES", 7 * 70 * 70 * 3)
    if broken:
        (image_folder / "train" / "class0" / "train2.png").write_bytes(b"")
    config = preset_config("code2012")
    reading = {"source": "folder", "path": str(image_folder), "size": 70, "crop": 67}
    config.data.update({**reading, "hold": "device", "on_error": "skip"})
    config.train.update({"batch_size": 4, "steps": 1})
    opened = pipelines.open_pipeline(**reading).dataset
    sources = {name: Counted(source) for name, source in opened.splits.items()}
    dataset = dataclasses.replace(opened, splits=sources)
    setup = build_setup(config, dataset, workdir=tmp_path)
    cuts = holding.make_cuts(setup.pipeline, setup.held, setup.mesh, lambda: None)
    assert [*cuts] == [*setup.held] == ["train", "validation"]
    counts = {name: len(source.read) for name, source in sources.items()}
    assert counts == {"train": 31 if broken else 16, "validation": 6}
    for split, found in setup.held.items():
        if found is None:
            assert broken and split == "train"
            continue
        expected = holding.hold(setup.pipeline, split, setup.mesh, lambda: None)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


class Broken(WrappedSource):
    """A source in which one example can't be read."""

    def __getitem__(self, index: int) -> Example:
        if index == 5:
            raise UnreadableImage(f"{self.where(index)} broke")
        return self.source[index]


def test_an_image_that_cannot_be_read_is_known_before_the_first_step():
    opened = digits()
    broken = with_train(opened, Broken(opened.dataset.splits["train"]))
    with pytest.raises(UnreadableImage, match="digit .* broke"):
        holding.hold(broken, "train", mesh_of(1, 1), lambda: None)


@pytest.mark.extended
def test_a_split_of_more_than_2_to_the_31_values():
    """Each image's first row is its number: those at the end are not taken for others.

    2.3 GB on one device.
    """
    size, count = 64, 190_000
    assert count * size * size * 3 > 2**31
    part = 10_000

    def parts() -> Iterator[HostBatch]:
        for start in range(0, count, part):
            labels = np.arange(start, start + part, dtype=np.int32)
            images = np.zeros((part, size, size, 3), np.uint8)
            images[:, 0, :4, 0] = labels.view(np.uint8).reshape(-1, 4)
            images[:, -1, -4:, 2] = labels.view(np.uint8).reshape(-1, 4)
            yield {"image": images, "label": labels}

    mesh = mesh_of(1, 1)
    placed = placement.RowsOnDevices(count // part, mesh)
    for rows in parts():
        placed.add(rows)
    held = held_splits.HeldSplit(**placed.arrays)
    index = np.array([0, 1, 174_762, 174_763, 174_764, count - 1], np.int32)
    zeros = np.zeros_like(index)
    batch = {
        "index": index,
        "row": zeros,
        "column": zeros,
        "flipped": zeros.astype(bool),
        "colour_shift": np.zeros((len(index), 3), np.float32),
    }
    cut = held_splits.make_train_cut(held, mesh, crop=size)
    found = jax.device_get(cut(placement.to_devices(batch, mesh)))
    np.testing.assert_array_equal(found["label"], index)
    for numbers in (found["image"][:, 0, :4, 0], found["image"][:, -1, -4:, 2]):
        read = np.ascontiguousarray(numbers).view(np.int32)[:, 0]
        np.testing.assert_array_equal(read, index)
