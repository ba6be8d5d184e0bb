import dataclasses
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

from alexnet_jax import prepare
from alexnet_jax.data.loading import augment, prefetch
from alexnet_jax.data.loading import pipeline as pipelines
from alexnet_jax.runtime.errors import DataStalled, Failure, InputError


@pytest.fixture(scope="module")
def digits():
    pipeline = pipelines.open_pipeline(
        source="digits", size=20, crop=16, validation_fraction=0.9, threads=2
    )
    return pipeline, pipelines.measure_statistics(pipeline)


def digest(pipeline, dataset, *, start=0, count=6):
    total = hashlib.sha256()
    with prefetch.read(pipeline, dataset, start) as batches:
        for _ in range(count):
            batch = next(batches)
            for name in sorted(batch):
                total.update(batch[name].tobytes())
    return total.hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": 1},
        {"threads": 8, "buffer": 1},
        {"threads": 3, "buffer": 7},
        {"workers": 1},
        pytest.param({"workers": 2, "threads": 1}, marks=pytest.mark.slow),
    ],
)
def test_threads_and_workers_change_nothing(digits, changes):
    pipeline, statistics = digits
    dataset = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=3)
    changed = dataclasses.replace(pipeline, **changes)
    assert digest(changed, dataset) == digest(pipeline, dataset)


def test_a_start_in_the_middle_goes_on_as_if_never_stopped(digits):
    pipeline, statistics = digits
    dataset = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=3)
    with prefetch.read(pipeline, dataset) as batches:
        straight = [next(batches) for _ in range(60)]
    with prefetch.read(pipeline, dataset, 57) as batches:
        for expected in straight[57:]:
            for name, array in next(batches).items():
                np.testing.assert_array_equal(array, expected[name])


def test_every_epoch_has_every_example_in_its_own_order_and_with_other_draws(digits):
    pipeline, statistics = digits
    source = pipeline.dataset.splits["train"]
    dataset = pipelines.train_dataset(
        dataclasses.replace(pipeline, crops=False, flip=False),
        statistics,
        batch_size=1,
        seed=0,
    )
    names = {
        source[index]["image"][2:18, 2:18].tobytes(): index
        for index in range(len(source))
    }
    assert len(names) == len(source)
    epochs, shifts = [], []
    for epoch in range(2):
        examples = [
            dataset[epoch * len(source) + place] for place in range(len(source))
        ]
        epochs.append([names[example["image"][0].tobytes()] for example in examples])
        shifts.append({example["colour_shift"].tobytes() for example in examples})
        assert sorted(epochs[-1]) == list(range(len(source)))
    assert epochs[0] != epochs[1]
    assert not shifts[0] & shifts[1]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one(digits, processes):
    pipeline, statistics = digits
    whole = pipelines.train_dataset(pipeline, statistics, batch_size=12, seed=5)
    shares = [
        pipelines.train_dataset(
            pipeline,
            statistics,
            batch_size=12,
            seed=5,
            share=process,
            shares=processes,
        )
        for process in range(processes)
    ]
    for step in range(3):
        for name, array in whole[step].items():
            parts = np.concatenate([share[step][name] for share in shares])
            np.testing.assert_array_equal(parts, array)


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_a_prepared_set_gives_the_same_batches_in_workers(
    tmp_path, picture_folder, encoding
):
    prepare.prepare(
        source="folder",
        input_path=str(picture_folder),
        output=tmp_path / "out",
        encoding=encoding,
        size=20,
        workers=1,
    )
    pipeline = pipelines.open_pipeline(path=str(tmp_path / "out"), crop=16)
    dataset = pipelines.train_dataset(
        pipeline, pipeline.dataset.statistics, batch_size=8, seed=3
    )
    in_workers = dataclasses.replace(pipeline, workers=1)
    assert digest(in_workers, dataset) == digest(pipeline, dataset)


def test_the_seed_decides_the_order(digits):
    pipeline, statistics = digits
    digests = {
        digest(
            pipeline,
            pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=seed),
        )
        for seed in (0, 1)
    }
    assert len(digests) == 2


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [6, 60, 6000])
def test_evaluation_sees_every_example_exactly_once(digits, processes, batch_size):
    pipeline, _ = digits
    source = pipeline.dataset.splits["train"]
    expected = sorted(source[i]["image"].tobytes() for i in range(len(source)))
    seen, counts = [], set()
    for process in range(processes):
        dataset = pipelines.evaluation_dataset(
            pipeline,
            "train",
            batch_size=batch_size,
            share=process,
            shares=processes,
        )
        counts.add(len(dataset))
        with prefetch.read(pipeline, dataset) as batches:
            for batch in batches:
                assert len(batch["mask"]) == batch_size // processes
                seen += [image.tobytes() for image in batch["image"][batch["mask"]]]
    assert sorted(seen) == expected
    assert len(counts) == 1


def test_batches_are_uint8_crops_and_small_shifts(digits):
    pipeline, statistics = digits
    batch = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=0)[0]
    kinds = {name: (array.dtype, array.shape) for name, array in batch.items()}
    assert kinds == {
        "image": (np.uint8, (8, 16, 16, 3)),
        "label": (np.int32, (8,)),
        "colour_shift": (np.float32, (8, 3)),
    }


def test_the_mean_picture_is_cut_in_the_centre(digits):
    pipeline, statistics = digits
    cut = statistics.mean_crop(statistics, pipeline.crop)
    np.testing.assert_array_equal(cut, statistics.mean[2:18, 2:18])


def test_no_thread_stays_behind(digits):
    pipeline, statistics = digits

    def read_one():
        dataset = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=0)
        with prefetch.read(pipeline, dataset) as batches:
            next(batches)

    # The threads that decode serve every reading of the process, and stay.
    read_one()
    before = threading.active_count()
    read_one()
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_switches(digits):
    pipeline, statistics = digits
    source = pipeline.dataset.splits["train"]

    def batch(**changes):
        changed = dataclasses.replace(pipeline, **changes)
        return pipelines.train_dataset(changed, statistics, batch_size=64, seed=0)[0]

    whole, fixed = batch(), batch(crops=False, flip=False)
    centres = {source[i]["image"][2:18, 2:18].tobytes() for i in range(len(source))}
    assert {image.tobytes() for image in fixed["image"]} <= centres
    assert not {image.tobytes() for image in whole["image"]} <= centres
    unflipped = batch(flip=False)
    np.testing.assert_array_equal(unflipped["colour_shift"], whole["colour_shift"])
    same = (unflipped["image"] == whole["image"]).all(axis=(1, 2, 3))
    mirrored = (unflipped["image"] == whole["image"][:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | mirrored).all()
    assert 16 < same.sum() < 48


def test_statistics_are_exact_whatever_the_threads(digits):
    pipeline, statistics = digits
    source = pipeline.dataset.splits["train"]
    whole = np.stack([source[i]["image"] for i in range(len(source))]).astype(float)
    np.testing.assert_array_equal(
        statistics.mean, whole.mean(axis=0).astype(np.float32)
    )
    for threads in (1, 5):
        changed = dataclasses.replace(pipeline, threads=threads)
        again = pipelines.measure_statistics(changed)
        for name in ("mean", "deviations", "directions"):
            np.testing.assert_array_equal(
                getattr(again, name), getattr(statistics, name)
            )


def test_too_little_shared_memory_is_said_before_workers_start(digits, monkeypatch):
    pipeline, statistics = digits
    pipeline = dataclasses.replace(pipeline, workers=2)
    dataset = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=0)
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(prefetch.shutil, "disk_usage", lambda _: usage)
    with (
        pytest.raises(InputError, match="data.workers=2 needs .* MiB of shared"),
        prefetch.read(pipeline, dataset),
    ):
        pass


def test_ctrl_c_does_not_end_the_workers(digits):
    """A terminal sends it to every process; only the main one decides."""
    pipeline, statistics = digits
    pipeline = dataclasses.replace(pipeline, workers=1, buffer=1)
    dataset = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=0)
    with prefetch.read(pipeline, dataset) as batches:
        for _ in range(3):
            next(batches)
        workers = multiprocessing.active_children()
        assert workers
        for worker in workers:
            os.kill(worker.pid, signal.SIGINT)
        for _ in range(50):
            next(batches)


def test_an_error_in_a_record_comes_through(digits, monkeypatch):
    pipeline, statistics = digits

    def broken(*_, **__):
        raise InputError("picture 7 is broken")

    monkeypatch.setattr(augment, "view", broken)
    dataset = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=0)
    with (
        pytest.raises(InputError, match="picture 7 is broken"),
        prefetch.read(pipeline, dataset) as batches,
    ):
        next(batches)


class Hanging:
    """The digits, of which one can't be read until it is let go."""

    def __init__(self, source, index):
        self.source, self.index, self.go = source, index, threading.Event()

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index == self.index:
            assert self.go.wait(60)
        return self.source[index]

    def name(self, index):
        return self.source.name(index)

    def where(self, index):
        return self.source.where(index)


def test_a_record_that_hangs_is_named_in_time(digits):
    pipeline, statistics = digits
    source = Hanging(pipeline.dataset.splits["train"], 5)
    splits = {**pipeline.dataset.splits, "train": source}
    dataset = dataclasses.replace(pipeline.dataset, splits=splits)
    hanging = dataclasses.replace(pipeline, dataset=dataset, timeout=0.5)
    batches = pipelines.train_dataset(hanging, statistics, batch_size=8, seed=0)
    where = source.where(5)
    try:
        with (
            pytest.raises(DataStalled, match=f"data.timeout=0.5 s; .*{where}"),
            prefetch.read(hanging, batches) as iterator,
        ):
            for _ in range(len(source)):
                next(iterator)
    finally:
        source.go.set()


@pytest.mark.parametrize(
    ("number", "error", "told"),
    [
        (signal.SIGKILL, Failure, "a worker that reads the data was ended .*code -9"),
        (signal.SIGSTOP, DataStalled, "no batch within 4 s, .*a worker hangs"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_told_of(digits, number, error, told):
    pipeline, statistics = digits
    pipeline = dataclasses.replace(pipeline, workers=1, buffer=1)
    dataset = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=0)
    with (
        pytest.raises(error, match=told),
        prefetch.read(pipeline, dataset) as batches,
    ):
        next(batches)
        batches._seconds = 4
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, number)
        for _ in range(50):
            next(batches)
    worker.join(30)
    assert not worker.is_alive()


@pytest.mark.parametrize("name", ["threads", "buffer", "workers"])
def test_numbers_out_of_range(name):
    with pytest.raises(InputError, match=f"data.{name}=-1"):
        pipelines.open_pipeline(source="digits", size=20, crop=16, **{name: -1})


def test_a_crop_larger_than_the_picture():
    with pytest.raises(InputError, match="data.crop=99 must lie between 1 and"):
        pipelines.open_pipeline(source="digits", size=20, crop=99)
