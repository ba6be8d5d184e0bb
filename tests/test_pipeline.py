import dataclasses
import hashlib
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from alexnet_jax import augment
from alexnet_jax import pipeline as pipelines
from alexnet_jax.errors import InputError


@pytest.fixture(scope="module")
def digits():
    pipeline = pipelines.open_pipeline(
        source="digits", size=20, crop=16, validation_fraction=0.9, threads=2
    )
    return pipeline, pipelines.measure_statistics(pipeline)


def digest(pipeline, dataset, *, start=0, count=6):
    total = hashlib.sha256()
    with pipelines.read(pipeline, dataset, start) as batches:
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
    with pipelines.read(pipeline, dataset) as batches:
        straight = [next(batches) for _ in range(60)]
    with pipelines.read(pipeline, dataset, 57) as batches:
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


def test_processes_share_the_batches_of_one(digits):
    pipeline, statistics = digits
    whole = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=5)
    shares = [
        pipelines.train_dataset(
            pipeline, statistics, batch_size=8, seed=5, process=p, processes=2
        )
        for p in range(2)
    ]
    for step in range(3):
        for name, array in whole[step].items():
            parts = np.concatenate([share[step][name] for share in shares])
            np.testing.assert_array_equal(parts, array)


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
            process=process,
            processes=processes,
        )
        counts.add(len(dataset))
        with pipelines.read(pipeline, dataset) as batches:
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
    cut = pipelines.mean_crop(statistics, pipeline.crop)
    np.testing.assert_array_equal(cut, statistics.mean[2:18, 2:18])


def test_no_thread_stays_behind(digits):
    pipeline, statistics = digits
    before = threading.active_count()
    dataset = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=0)
    with pipelines.read(pipeline, dataset) as batches:
        next(batches)
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_does_not_end_the_workers(digits):
    """A terminal sends it to every process; only the main one decides."""
    pipeline, statistics = digits
    pipeline = dataclasses.replace(pipeline, workers=1, buffer=1)
    dataset = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=0)
    with pipelines.read(pipeline, dataset) as batches:
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

    monkeypatch.setattr(augment, "random_view", broken)
    dataset = pipelines.train_dataset(pipeline, statistics, batch_size=8, seed=0)
    with (
        pytest.raises(InputError, match="picture 7 is broken"),
        pipelines.read(pipeline, dataset) as batches,
    ):
        next(batches)


def test_a_crop_larger_than_the_picture():
    with pytest.raises(InputError, match="data.crop=99 must lie between 1 and"):
        pipelines.open_pipeline(source="digits", size=20, crop=99)
