import errno
import importlib.machinery
import json
import os
import re
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.runs import lines_file, time_spent, training_hints, workdir
from alexnet_jax.runs.metric_writer import MetricWriter
from alexnet_jax.runs.metrics_file import METRICS_FILE, cut_metrics, read_spikes
from alexnet_jax.runs.time_spent import KINDS, SAVING
from alexnet_jax.runtime.errors import Diverged, Failure, InputError
from alexnet_jax.training.plan import make_plan

import runs


def metrics(loss):
    values = {"loss": loss * 4, "top1_error": 3.0, "top5_error": 1.0, "examples": 4.0}
    return {name: jnp.float32(value) for name, value in values.items()} | {
        "learning_rate": jnp.float32(0.01)
    }


def writer(tmp_path, start=0, **options):
    plan = make_plan(examples=12, batch_size=4, steps=9)
    options = {"classes": 10, "advice": "buy more cores", **options}
    return MetricWriter(tmp_path, plan, start=start, **options)


def lines(tmp_path):
    text = (tmp_path / METRICS_FILE).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_for_every_step_one_step_late(tmp_path, monkeypatch):
    monkeypatch.setattr(lines_file, "BYTES_AT_ONCE", 0)
    with writer(tmp_path) as written:
        written.train(1, metrics(2.0), 0.1)
        written.train(2, metrics(1.5), 0.1)
        assert [line["step"] for line in lines(tmp_path)] == [1]
        written.flush()
        written.validation(2, {"loss": 1.0, "top1_error": 0.5, "top5_error": 0.25})
        written.flush()
    first, second, validation = lines(tmp_path)
    assert first == {
        "step": 1,
        "epoch": pytest.approx(1 / 3),
        "split": "train",
        "loss": 2.0,
        "top1_error": 0.75,
        "top5_error": 0.25,
        "learning_rate": pytest.approx(0.01),
        "images_per_second": first["images_per_second"],
        "input_wait_fraction": first["input_wait_fraction"],
    }
    assert second["loss"] == 1.5
    assert validation == {
        "step": 2,
        "epoch": pytest.approx(2 / 3),
        "split": "validation",
        "loss": 1.0,
        "top1_error": 0.5,
        "top5_error": 0.25,
    }


@pytest.mark.parametrize(("validated", "kept"), [(True, 3), (False, 2)])
def test_a_resume_cuts_back_to_its_step(tmp_path, validated, kept):
    with writer(tmp_path) as written:
        for step in range(1, 5):
            written.train(step, metrics(1.0), 0.0)
            if step == 2:
                written.flush()
                written.validation(2, {"loss": 1, "top1_error": 0.5, "top5_error": 0})
        written.flush()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 5, "spl')
    with writer(tmp_path, start=2, validated=validated) as written:
        assert len(lines(tmp_path)) == kept
        written.train(3, metrics(1.0), 0.0)
        written.flush()
    steps = [line["step"] for line in lines(tmp_path) if line["split"] == "train"]
    assert steps == [1, 2, 3]


@pytest.mark.parametrize("write", [MetricWriter.flush, MetricWriter.kept])
def test_a_directory_that_vanishes_is_noticed_before_anything_is_saved(tmp_path, write):
    workdir = tmp_path / "run"
    workdir.mkdir()
    with (
        pytest.raises(Failure, match=r"metrics.jsonl can't be written"),
        writer(workdir) as written,
    ):
        written.train(1, metrics(1.0), 0.0)
        workdir.rename(tmp_path / "moved")
        write(written)


def test_a_disk_that_is_full_when_it_syncs_is_one_line(tmp_path, disk):
    with writer(tmp_path) as written:
        written.train(1, metrics(1.0), 0.0)
        keep = written.kept()
        disk.begin(0)
        with pytest.raises(Failure, match=r"metrics.jsonl can't be written .No space"):
            keep()
        disk.begin()
        written.train(2, metrics(1.0), 0.0)
        written.flush()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


@pytest.mark.parametrize("lost", [0, 1, 150])
def test_lines_reach_a_drive_that_was_away(tmp_path, monkeypatch, capsys, lost):
    """It answers nothing for a while, and may have lost what was not synced."""
    monkeypatch.setattr(lines_file, "BYTES_AT_ONCE", 0)
    path, fsync, failures = tmp_path / METRICS_FILE, os.fsync, [3]

    def away(descriptor):
        if failures[0]:
            failures[0] -= 1
            length = path.stat().st_size
            os.truncate(path, length - lost)
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        fsync(descriptor)

    with writer(tmp_path) as written:
        for step in range(1, 5):
            written.train(step, metrics(1.0), 0.0)
        monkeypatch.setattr(os, "fsync", away)
        written.flush()
        assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    messages = capsys.readouterr().err
    assert "can't be reached" in messages and "for 10 minutes" in messages
    assert "is back" in messages


def test_lines_are_added_while_another_thread_waits_for_the_disk(tmp_path, monkeypatch):
    """What was added before is on the disk then; what comes later has its turn."""
    fsync, begun, release = os.fsync, threading.Event(), threading.Event()

    def slow(descriptor):
        begun.set()
        assert release.wait(30)
        fsync(descriptor)

    file = lines_file.LinesFile(tmp_path / METRICS_FILE)
    file.add('{"step": 1}')
    monkeypatch.setattr(os, "fsync", slow)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(file.flush)
        assert begun.wait(30)
        file.add('{"step": 2}')
        file.write()
        assert lines(tmp_path) == [{"step": 1}, {"step": 2}]
        second = threads.submit(file.flush)
        file.add('{"step": 3}')
        assert not first.done()
        release.set()
        for done in (first, second):
            done.result()
    file.flush()
    file.add('{"step": 4}')
    file.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, loss):
    with (
        pytest.raises(Diverged, match=r"step 2, at a learning rate of 0.01: the loss"),
        writer(tmp_path) as written,
    ):
        written.train(1, metrics(1.0), 0.0)
        written.train(2, metrics(loss), 0.0)
        written.flush()
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_a_damaged_line_is_named_unless_it_is_the_last(tmp_path):
    whole = '{"step": 1, "split": "train"}\n'
    path = tmp_path / METRICS_FILE
    path.write_text(whole + '{"step": 2, "sp')
    cut_metrics(path, 2)
    assert path.read_text() == whole
    path.write_text(whole + '{"step": 2, "sp\n' + whole)
    with pytest.raises(InputError, match="line 2, is damaged"):
        cut_metrics(path, 2)


def test_nothing_to_cut(tmp_path):
    cut_metrics(tmp_path / METRICS_FILE, 3)
    assert not (tmp_path / METRICS_FILE).exists()


@pytest.mark.parametrize(("waited", "said"), [(1e9, 1), (0.0, 0)])
def test_one_hint_where_the_data_are_the_limit(
    tmp_path, capsys, monkeypatch, waited, said
):
    monkeypatch.setattr(training_hints, "STEPS_BEFORE_A_HINT", 3)
    with writer(tmp_path) as written:
        for step in range(1, 19):
            # The first steps wait for the threads to start, which is no reason.
            written.train(step, metrics(1.0), 1e9 if step <= 10 else waited)
        written.flush()
    # In one line, however long.
    shown = capsys.readouterr().err
    assert shown.count("spent waiting for the data; buy more cores") == said
    fractions = {line["input_wait_fraction"] for line in lines(tmp_path)[10:]}
    assert fractions == {1.0 if said else 0.0}


def started(tmp_path):
    """Note a start in run.json, as `start_run` does."""
    path = tmp_path / workdir.RUN_FILE
    starts = json.loads(path.read_text())["starts"] if path.exists() else []
    noted = {"format_version": workdir.FORMAT_VERSION, "starts": [*starts, {"time": 0}]}
    path.write_text(json.dumps(noted))


def test_the_last_line_says_where_the_time_went(tmp_path, capsys):
    """Not waiting for a batch that was there before the last step had ended."""
    started(tmp_path)
    with writer(tmp_path) as written:
        time.sleep(0.05)
        written.train(1, metrics(1.0), 0.0)
        written.train(2, metrics(1.0), 20.0)
        runs.slow(jnp.float32(0)).block_until_ready()
        loss = jnp.float32(0)
        # Seconds, so that it has not ended at the next line.
        for _ in range(10):
            loss = runs.slow(loss)
        written.train(3, {**metrics(1.0), "loss": loss}, 30.0)
        written.train(4, metrics(1.0), 1000.0)
        with written.time.counted(SAVING):
            time.sleep(0.1)
        written.flush()
    (start,) = workdir.read_starts(tmp_path)
    seconds, steps = start["seconds"], start["step_seconds"]
    assert isinstance(seconds, dict) and isinstance(steps, dict)
    assert list(seconds) == list(KINDS)
    assert seconds["waiting for data"] == 50.0
    assert seconds["validating"] == seconds["lost to restarts"] == 0
    assert 0.1 <= seconds["saving"] < 10
    assert 0.05 <= seconds["compiling"] < 10
    assert 0 < steps["median"] <= steps["90 %"] <= steps["99 %"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("time: ") and " 50.0 s waiting for data, 0.0 s val" in last
    assert re.search(r"; a step took [\d.]+ s \(median\), [\d.]+ s \(90 %\), ", last)


class Board:
    """Takes the place of TensorBoard's writer."""

    made: ClassVar[list["Board"]] = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars = folder, purge_step, []
        self.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def close(self):
        self.scalars.append("closed")


def test_tensorboard_gets_the_numbers_of_the_lines(tmp_path, monkeypatch):
    stand_in = types.ModuleType("tensorboardX")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("tensorboardX", None)
    monkeypatch.setattr(stand_in, "SummaryWriter", Board, raising=False)
    monkeypatch.setitem(sys.modules, "tensorboardX", stand_in)
    monkeypatch.setattr(Board, "made", [])
    with writer(tmp_path, start=2) as written:
        written.train(3, metrics(2.0), 0.1)
        written.validation(3, {"loss": 1.0, "top1_error": 0.5, "top5_error": 0.25})
        written.flush()
    (board,) = Board.made
    # What a start that was killed has written beyond its checkpoint is dropped.
    assert (board.folder, board.purge_step) == (str(tmp_path / "tensorboard"), 3)
    expected = [
        (f"{line['split']}/{name}", value, line["step"])
        for line in lines(tmp_path)
        for name, value in line.items()
        if name not in ("step", "epoch", "split")
    ]
    assert len(expected) > 6
    assert board.scalars == [*expected, "closed"]


def test_the_time_is_that_of_all_starts(tmp_path, capsys):
    """One was killed after step 4 and had saved step 2; what it had noted counts."""
    started(tmp_path)
    killed = writer(tmp_path).__enter__()
    for step in range(1, 5):
        killed.train(step, metrics(1.0), 0.0)
        if step == 2:
            killed.time.add(SAVING, 7.0)
            killed.kept()()
    killed.flush()
    third, fourth = (4 / line["images_per_second"] for line in lines(tmp_path)[2:])
    started(tmp_path)
    with writer(tmp_path, start=2) as written:
        for step in (3, 4, 5):
            written.train(step, metrics(1.0), 0.0)
        written.time.add(SAVING, 2.0)
        written.flush()
    starts = workdir.read_starts(tmp_path)
    total = time_spent.total([*starts, {"seconds": "damaged"}, {}])
    assert total["saving"] == 9.0
    assert total["lost to restarts"] == pytest.approx(third + fourth, abs=1e-3)
    # Not of the steps that each start compiled.
    took = [4 / lines(tmp_path)[place]["images_per_second"] for place in (1, 3, 4)]
    median = time_spent.latest_percentiles(starts)["median"]
    # Divided twice, so rounded twice.
    assert median == pytest.approx(sorted(took)[1], rel=1e-12)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("time over 2 starts: ") and " 9.0 s saving, " in last


def test_the_slowest_of_several_processes_is_named():
    """Over all starts with as many as the last; one alone is not named."""
    alone = {"seconds": {"steps": 5.0, "waiting for data": 9.0}}
    waits = [[90.0, 0.0], [1.0, 2.0, 0.5], [1.0, 33.0, 0.5]]
    starts = [
        {"seconds": {"waiting for data": w[0]} | time_spent.of_processes(w)}
        for w in waits
    ]
    assert time_spent.total(starts)["waiting for data"] == 92.0
    late = (
        "of 3 processes number 1 was the slowest: 35.0 s waiting for data, the others "
        "at most 2.0 s"
    )
    assert time_spent.slowest(starts) == late
    assert time_spent.line(starts).endswith(f"; {late}")
    assert time_spent.slowest([*starts, alone]) == time_spent.slowest([]) == ""
    assert "slowest" not in time_spent.line([*starts, alone])
    assert time_spent.of_processes([3.0]) == {}


def test_a_run_that_trained_nothing_says_nothing_of_its_time(tmp_path, capsys):
    started(tmp_path)
    with writer(tmp_path):
        pass
    assert capsys.readouterr().err == ""
    assert "seconds" not in workdir.read_starts(tmp_path)[0]


def test_a_loss_spike_is_an_event_also_after_a_restart(tmp_path, capsys):
    """Against NumPy's median of the 100 steps before."""
    losses = np.random.default_rng(0).uniform(0.8, 1.2, 160)
    losses[[50, 130, 131, 140]] = 4.0, 2.6, 3.0, 7.0
    losses[120] = 1.9
    for stop in (135, 160):
        begin = 0 if stop == 135 else 128
        with writer(tmp_path, start=begin) as written:
            for place in range(begin, stop):
                written.train(place + 1, metrics(losses[place]), 0.0)
            written.flush()
    expected = {
        place + 1: losses[place] / np.median(losses[place - 100 : place])
        for place in (140,)
    }
    found = {spike.step: spike.factor for spike in read_spikes(tmp_path)}
    assert found == pytest.approx(expected, rel=0.01)
    assert next(s for s in lines(tmp_path) if "loss_spike" in s)["step"] == 141
    assert capsys.readouterr().err.count("step 141: the loss rose to 7, 6") == 1


@pytest.mark.parametrize(("classes", "shown"), [(5, 0), (6, 1)])
def test_five_classes_have_no_top5_error_but_in_the_file(
    tmp_path, capsys, classes, shown
):
    errors = {"loss": 1.0, "top1_error": 0.5, "top5_error": 0.25}
    with writer(tmp_path, classes=classes) as written:
        written.validation(2, errors)
    assert capsys.readouterr().err.count("top-5") == shown
    assert lines(tmp_path)[0]["top5_error"] == 0.25


@pytest.mark.parametrize(
    ("begin", "factor", "said"),
    [(1, 1.01, 1), (1, 1.0, 0), (1, 0.99, 0), (51, 1.01, 0)],
)
def test_a_loss_that_rises_over_the_first_hundred_steps_is_one_warning(
    tmp_path, capsys, begin, factor, said
):
    with writer(tmp_path, start=begin - 1) as written:
        for step in range(begin, 220):
            written.train(step, metrics(2.0 * factor**step), 0.0)
        written.flush()
    shown = capsys.readouterr().err
    assert shown.count("warning: the loss rose from") == said
    assert shown.count("set a lower --config.schedule.learning_rate") == said
