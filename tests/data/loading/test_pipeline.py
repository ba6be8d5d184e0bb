import dataclasses
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from typing import Any

import grain
import numpy as np
import pytest

from alexnet_jax.data import statistics as data_statistics
from alexnet_jax.data.dataset import Example, Source
from alexnet_jax.data.loading import (
    augment,
    first_pass,
    grain_datasets,
    pipeline,
    prefetch,
)
from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.prepared.preparation import prepare
from alexnet_jax.data.selection import WrappedSource
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.runtime import open_files
from alexnet_jax.runtime.errors import DataStalled, Failure, InputError


@pytest.fixture(scope="module")
def digits() -> tuple[Pipeline, Statistics]:
    opened = pipeline.open_pipeline(
        source="digits", size=20, crop=16, validation_fraction=0.9, threads=2
    )
    statistics = first_pass.read_all(opened).statistics
    assert statistics is not None
    return opened, statistics


def batch_at(dataset: grain.MapDataset[HostBatch], step: int) -> HostBatch:
    batch = dataset[step]
    assert batch is not None
    return batch


def digest(
    opened: Pipeline,
    dataset: grain.MapDataset[HostBatch],
    *,
    start: int = 0,
    count: int = 6,
) -> str:
    total = hashlib.sha256()
    with prefetch.read(opened, dataset, start) as batches:
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
    opened, statistics = digits
    dataset = grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=3)
    changed = dataclasses.replace(opened, **changes)
    assert digest(changed, dataset) == digest(opened, dataset)


def test_a_start_in_the_middle_continues_as_if_never_stopped(digits):
    opened, statistics = digits
    dataset = grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=3)
    with prefetch.read(opened, dataset) as batches:
        straight = [next(batches) for _ in range(60)]
    with prefetch.read(opened, dataset, 57) as batches:
        for expected in straight[57:]:
            for name, array in next(batches).items():
                np.testing.assert_array_equal(array, expected[name])


def test_every_epoch_has_every_example_in_its_own_order_and_with_other_draws(digits):
    opened, statistics = digits
    source = opened.dataset.splits["train"]
    dataset = grain_datasets.train_dataset(
        dataclasses.replace(opened, crops=False, flip=False),
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
            batch_at(dataset, epoch * len(source) + place)
            for place in range(len(source))
        ]
        epochs.append([names[example["image"][0].tobytes()] for example in examples])
        shifts.append({example["colour_shift"].tobytes() for example in examples})
        assert sorted(epochs[-1]) == list(range(len(source)))
    assert epochs[0] != epochs[1]
    assert not shifts[0] & shifts[1]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one(digits, processes):
    opened, statistics = digits
    whole = grain_datasets.train_dataset(opened, statistics, batch_size=12, seed=5)
    slices = [
        grain_datasets.train_dataset(
            opened,
            statistics,
            batch_size=12,
            seed=5,
            slice_index=process,
            slice_count=processes,
        )
        for process in range(processes)
    ]
    for step in range(3):
        for name, array in batch_at(whole, step).items():
            parts = np.concatenate([batch_at(part, step)[name] for part in slices])
            np.testing.assert_array_equal(parts, array)


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_a_prepared_set_gives_the_same_batches_in_workers(
    tmp_path, image_folder, encoding
):
    prepare(
        source="folder",
        input_path=str(image_folder),
        output=tmp_path / "out",
        encoding=encoding,
        size=20,
        workers=1,
    )
    opened = pipeline.open_pipeline(path=str(tmp_path / "out"), crop=16)
    statistics = opened.dataset.statistics
    assert statistics is not None
    dataset = grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=3)
    in_workers = dataclasses.replace(opened, workers=1)
    assert digest(in_workers, dataset) == digest(opened, dataset)


def test_the_seed_decides_the_order(digits):
    opened, statistics = digits
    digests = {
        digest(
            opened,
            grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=seed),
        )
        for seed in (0, 1)
    }
    assert len(digests) == 2


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [6, 60, 6000])
def test_evaluation_sees_every_example_exactly_once(digits, processes, batch_size):
    opened, _ = digits
    source = opened.dataset.splits["train"]
    expected = sorted(source[i]["image"].tobytes() for i in range(len(source)))
    seen, counts = [], set()
    for process in range(processes):
        dataset = grain_datasets.evaluation_dataset(
            opened,
            "train",
            batch_size=batch_size,
            slice_index=process,
            slice_count=processes,
        )
        counts.add(len(dataset))
        with prefetch.read(opened, dataset) as batches:
            for batch in batches:
                assert len(batch["mask"]) == batch_size // processes
                seen += [image.tobytes() for image in batch["image"][batch["mask"]]]
    assert sorted(seen) == expected
    assert len(counts) == 1


def test_batches_are_uint8_crops_and_small_shifts(digits):
    opened, statistics = digits
    dataset = grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=0)
    batch = batch_at(dataset, 0)
    kinds = {name: (array.dtype, array.shape) for name, array in batch.items()}
    assert kinds == {
        "image": (np.uint8, (8, 16, 16, 3)),
        "label": (np.int32, (8,)),
        "colour_shift": (np.float32, (8, 3)),
    }


def test_the_mean_image_is_cut_in_the_centre(digits):
    opened, statistics = digits
    cut = data_statistics.mean_crop(statistics, opened.crop)
    np.testing.assert_array_equal(cut, statistics.mean[2:18, 2:18])


def test_no_thread_stays_behind(digits):
    opened, statistics = digits

    def read_one():
        dataset = grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=0)
        with prefetch.read(opened, dataset) as batches:
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
    opened, statistics = digits
    source = opened.dataset.splits["train"]

    def batch(**changes: bool) -> HostBatch:
        changed = dataclasses.replace(opened, **changes)
        dataset = grain_datasets.train_dataset(
            changed, statistics, batch_size=64, seed=0
        )
        return batch_at(dataset, 0)

    whole, fixed = batch(), batch(crops=False, flip=False)
    centres = {source[i]["image"][2:18, 2:18].tobytes() for i in range(len(source))}
    assert {image.tobytes() for image in fixed["image"]} <= centres
    assert not {image.tobytes() for image in whole["image"]} <= centres
    unflipped = batch(flip=False)
    np.testing.assert_array_equal(unflipped["colour_shift"], whole["colour_shift"])
    same = (unflipped["image"] == whole["image"]).all(axis=(1, 2, 3))
    flipped = (unflipped["image"] == whole["image"][:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | flipped).all()
    assert 16 < same.sum() < 48


def test_statistics_are_exact_whatever_the_threads(digits):
    opened, statistics = digits
    source = opened.dataset.splits["train"]
    whole = np.stack([source[i]["image"] for i in range(len(source))]).astype(float)
    np.testing.assert_array_equal(
        statistics.mean, whole.mean(axis=0).astype(np.float32)
    )
    for threads in (1, 5):
        changed = dataclasses.replace(opened, threads=threads)
        again = first_pass.read_all(changed).statistics
        for name in ("mean", "deviations", "directions"):
            np.testing.assert_array_equal(
                getattr(again, name), getattr(statistics, name)
            )


def test_too_little_shared_memory_is_said_before_workers_start(digits, monkeypatch):
    opened, statistics = digits
    opened = dataclasses.replace(opened, workers=2)
    dataset = grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=0)
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(prefetch.shutil, "disk_usage", lambda _: usage)
    with (
        pytest.raises(InputError, match="data.workers=2 needs .* MiB of shared"),
        prefetch.read(opened, dataset),
    ):
        pass


def test_too_few_open_files_are_said_before_workers_start(digits, monkeypatch):
    opened, statistics = digits
    dataset = grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=0)
    opened = dataclasses.replace(opened, workers=2)
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _: (64, 64))
    with (
        pytest.raises(InputError, match="data.workers=2 needs 112 open files, and 64"),
        prefetch.read(opened, dataset),
    ):
        pass


def test_ctrl_c_does_not_end_the_workers(digits):
    """A terminal sends it to every process; only the main one decides."""
    opened, statistics = digits
    opened = dataclasses.replace(opened, workers=1, buffer=1)
    dataset = grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=0)
    with prefetch.read(opened, dataset) as batches:
        for _ in range(3):
            next(batches)
        workers = multiprocessing.active_children()
        assert workers
        for worker in workers:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGINT)
        for _ in range(50):
            next(batches)


def test_an_error_in_a_record_comes_through(digits, monkeypatch):
    opened, statistics = digits

    def broken(*_, **__):
        raise InputError("image 7 is broken")

    monkeypatch.setattr(augment, "view", broken)
    dataset = grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=0)
    with (
        pytest.raises(InputError, match="image 7 is broken"),
        prefetch.read(opened, dataset) as batches,
    ):
        next(batches)


class Broken(WrappedSource):
    """Examples that can't be read."""

    def __getitem__(self, index: int) -> Example:
        raise InputError(f"image {index} is broken")


@pytest.mark.slow
def test_a_worker_s_error_is_raised_here_and_not_shown_there(digits, capfd):
    opened, statistics = digits
    splits = {**opened.dataset.splits}
    splits["train"] = Broken(splits["train"])
    dataset = dataclasses.replace(opened.dataset, splits=splits)
    broken = dataclasses.replace(opened, dataset=dataset, workers=1)
    batches = grain_datasets.train_dataset(broken, statistics, batch_size=8, seed=0)
    with (
        pytest.raises(InputError, match="image .* is broken"),
        prefetch.read(broken, batches) as iterator,
    ):
        next(iterator)
    assert capfd.readouterr().err == ""


class Hanging(WrappedSource):
    """The digits; reading example `index` waits until `go` is set."""

    def __init__(self, source: Source, index: int) -> None:
        super().__init__(source)
        self.index, self.go = index, threading.Event()

    def __getitem__(self, index: int) -> Example:
        if index == self.index:
            assert self.go.wait(60)
        return self.source[index]


def test_a_record_that_hangs_is_named_in_time(digits):
    opened, statistics = digits
    source = Hanging(opened.dataset.splits["train"], 5)
    splits = {**opened.dataset.splits, "train": source}
    dataset = dataclasses.replace(opened.dataset, splits=splits)
    hanging = dataclasses.replace(opened, dataset=dataset, timeout=3.0)
    batches = grain_datasets.train_dataset(hanging, statistics, batch_size=8, seed=0)
    where = source.where(5)
    try:
        with (
            pytest.raises(DataStalled, match=f"data.timeout=3 s; .*{where}"),
            prefetch.read(hanging, batches) as iterator,
        ):
            for _ in range(len(source)):
                next(iterator)
    finally:
        source.go.set()


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (signal.SIGKILL, Failure, "a worker that reads the data has died .*code -9"),
        (signal.SIGSTOP, DataStalled, "no batch within 4 s, .*a worker hangs"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_reported(digits, number, error, message):
    opened, statistics = digits
    opened = dataclasses.replace(opened, workers=1, buffer=1)
    dataset = grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=0)
    workers = []
    with (
        pytest.raises(error, match=message),
        prefetch.read(opened, dataset) as batches,
    ):
        next(batches)
        assert isinstance(batches, prefetch._Watched)
        batches._seconds = 4
        workers += multiprocessing.active_children()
        (worker,) = workers
        assert worker.pid is not None
        os.kill(worker.pid, number)
        for _ in range(50):
            next(batches)
    (worker,) = workers
    worker.join(30)
    assert not worker.is_alive()


class WithoutThreads(WrappedSource):
    """The digits; a worker that has read one can start no more threads."""

    def __getitem__(self, index: int) -> Example:
        if multiprocessing.parent_process() is not None:
            # By Python's version.
            for name in ("_start_new_thread", "_start_joinable_thread"):
                setattr(threading, name, cant_start)
        return self.source[index]


def cant_start(*_: object, **__: object) -> None:
    """As the system call raises where no more threads are allowed."""
    raise RuntimeError("can't start new thread")


def test_a_worker_that_starts_no_threads_is_reported(digits):
    """It can't send its error, since a thread would send it."""
    opened, statistics = digits
    splits = {"train": WithoutThreads(opened.dataset.splits["train"])}
    dataset = dataclasses.replace(opened.dataset, splits=splits)
    opened = dataclasses.replace(opened, dataset=dataset, workers=1, timeout=30)
    batches = grain_datasets.train_dataset(opened, statistics, batch_size=8, seed=0)
    with (
        pytest.raises(Failure, match=r"has died \(exit code 70; often a limit on "),
        prefetch.read(opened, batches) as iterator,
    ):
        next(iterator)


@pytest.mark.parametrize("name", ["threads", "buffer", "workers"])
def test_numbers_out_of_range(name):
    number: dict[str, Any] = {name: -1}
    with pytest.raises(InputError, match=f"data.{name}=-1"):
        pipeline.open_pipeline(source="digits", size=20, crop=16, **number)


def test_a_crop_larger_than_the_image():
    with pytest.raises(InputError, match="data.crop=99 must lie between 1 and"):
        pipeline.open_pipeline(source="digits", size=20, crop=99)
