import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from alexnet_jax import load_config, train
from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.checkpoint.reader import CheckpointReader
from alexnet_jax.data.dataset import Example, Source
from alexnet_jax.data.loading.pipeline import open_pipeline
from alexnet_jax.data.prepared.preparation import prepare
from alexnet_jax.data.selection import WrappedSource
from alexnet_jax.inference import finetune, trained
from alexnet_jax.main import parse
from alexnet_jax.nn.layers import changed
from alexnet_jax.runs import config as sections
from alexnet_jax.runs import config_changes, metrics_file, run_data
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.save_or_stop import Requests
from alexnet_jax.runs.setup import build_setup
from alexnet_jax.runtime.errors import (
    Diverged,
    Failure,
    InputError,
    Interrupted,
    Miscomputed,
    UnreadableImage,
)
from alexnet_jax.runtime.lock import locked
from alexnet_jax.runtime.signals import Interrupts
from alexnet_jax.training import evaluation, spikes
from alexnet_jax.training.plan import make_plan
from alexnet_jax.training.step import TrainState, TrainStep

import runs
from networks import flat, mesh_of, replicated
from watch import contents, wait_for


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return runs.run(tmp_path_factory.mktemp("straight"), "run")


def assert_same_state(workdir, straight, step=20):
    state, expected = (runs.final_state(run, step) for run in (workdir, straight))
    assert set(state) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)


def assert_same_run(workdir, straight):
    assert runs.lines(workdir) == runs.lines(straight)
    assert_same_state(workdir, straight)
    assert runs.checkpoint_steps(workdir) == runs.checkpoint_steps(straight)


def test_the_work_directory(straight):
    names = {path.name for path in straight.iterdir()} - {"tensorboard"}
    assert names == {
        "checkpoints",
        "config.json",
        "data.json",
        "mean.npy",
        "metrics.jsonl",
        "run.json",
    }
    lines = runs.lines(straight)
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == list(range(1, 21))
    validations = [line["step"] for line in lines if line["split"] == "validation"]
    assert validations == [8, 16, 20]
    run = json.loads((straight / "run.json").read_text())
    assert run["format_version"] == 2
    (start,) = run["starts"]
    assert {"versions", "commit", "command", "devices", "host"} <= set(start)
    assert start["held_by_devices"] == []
    assert start["determinism"] == {"compiler_options": "", "same_bits": True}


@pytest.mark.extended
def test_a_run_that_crashed_goes_on_bit_by_bit(tmp_path, straight, monkeypatch):
    """Stopped after the checkpoint of step 10; other threads and workers afterwards,
    which read from the host what the devices held before."""
    count = 0
    timed_next = train.timed_next

    def crash(*arguments):
        nonlocal count
        count += 1
        if count == 14:
            raise RuntimeError("power cut")
        return timed_next(*arguments)

    monkeypatch.setattr(train, "timed_next", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        runs.run(tmp_path, "run", "--config.data.hold=device")
    monkeypatch.setattr(train, "timed_next", timed_next)
    assert max(runs.checkpoint_steps(tmp_path / "run")) == 10
    runs.run(tmp_path, "run", "--config.data.threads=1", "--config.data.workers=1")
    assert_same_run(tmp_path / "run", straight)
    starts = workdirs.read_starts(tmp_path / "run")
    held = [start["held_by_devices"] for start in starts]
    assert held == [["train", "validation"], []]


@pytest.mark.slow
def test_the_next_batch_is_placed_while_a_step_runs(tmp_path, monkeypatch, capsys):
    started: list[Any] = []
    overlapped: list[bool] = []
    placed = threading.Semaphore(0)

    def until_placed(number):
        placed.acquire(timeout=5)
        return number

    @jax.jit
    def held(start):
        """A step that ends when the next batch is there, or too late."""
        return jax.pure_callback(until_placed, start, runs.slow(start))

    def train_step(state, batch, mean):
        loss = held(state.params)
        started.append(loss)
        if len(started) == 5:  # Behind the last one there is no batch.
            placed.release()
        names = ("loss", "top1_error", "top5_error", "examples", "learning_rate")
        return state._replace(step=state.step + 1), dict.fromkeys(names, loss)

    timed_next = train.timed_next

    def noted(*arguments):
        found = timed_next(*arguments)
        jax.block_until_ready(found[0])
        for step in started[-1:]:
            overlapped.append(not step.is_ready())
            placed.release()
        return found

    monkeypatch.setattr(train, "timed_next", noted)
    short = ("--config.train.steps=5", "--config.train.validate_steps=5")
    config, workdir = parse(
        runs.arguments(tmp_path, "run", *short, "--config.train.save_steps=5")
    )
    setup = build_setup(config)
    zero = jax.device_put(np.int32(0), replicated(setup.mesh))
    number = jax.device_put(np.float32(0), replicated(setup.mesh))
    state = TrainState(zero, number, (number,))
    errors = {"loss": 1.0, "top1_error": 0.5, "top5_error": 0.5}
    steps = dataclasses.replace(
        setup.steps,
        initial=lambda: state,
        abstract=jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
        ),
        train=train_step,
        after_validation=lambda state, error: state,
    )
    train.train(
        dataclasses.replace(setup, steps=steps, validate=lambda *_: errors), workdir
    )
    # Were a step waited for before, none would be running.
    assert overlapped == [True] * 4
    assert "s waiting for data, " in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_has_nothing_to_do(tmp_path):
    config, workdir = runs.parse(
        runs.arguments(tmp_path, "run", "--config.train.steps=2")
    )
    first = train.run(config, workdir)
    before = runs.lines(workdir)
    assert first["step"] == 2
    assert first["top1_error"] == before[-1]["top1_error"]
    assert train.run(config, str(workdir)) == first
    assert runs.lines(workdir) == before


@pytest.mark.slow
def test_a_signal_saves_and_the_run_goes_on(tmp_path, straight, monkeypatch):
    """Between a step and its validation, where a resume has to validate first."""
    timed_next = train.timed_next
    count = 0

    def interrupt(*arguments):
        nonlocal count
        count += 1
        if count == 8:
            signal.raise_signal(signal.SIGTERM)
        return timed_next(*arguments)

    monkeypatch.setattr(train, "timed_next", interrupt)
    with pytest.raises(Interrupted) as caught:
        runs.run(tmp_path, "run")
    assert caught.value.exit_status == 143
    monkeypatch.setattr(train, "timed_next", timed_next)
    assert runs.checkpoint_steps(tmp_path / "run") == {8: None}
    assert runs.lines(tmp_path / "run")[-1]["step"] == 8
    runs.run(tmp_path, "run")
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.slow
def test_a_stop_whose_save_fails_does_not_say_that_all_is_well(
    tmp_path, monkeypatch, capsys
):
    commit, timed_next = CheckpointWriter._commit, train.timed_next

    def full(checkpoints, saving):
        if saving.step == 3:
            raise Failure("the disk is full")
        commit(checkpoints, saving)

    def interrupt(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return timed_next(*arguments)

    monkeypatch.setattr(CheckpointWriter, "_commit", full)
    runs.run(tmp_path, "run", "--config.train.steps=2")
    monkeypatch.setattr(train, "timed_next", interrupt)
    with pytest.raises(Failure, match="the disk is full"):
        runs.run(tmp_path, "run")
    assert "stopped" not in capsys.readouterr().err
    assert list(runs.checkpoint_steps(tmp_path / "run")) == [2]


@pytest.mark.slow
@pytest.mark.extended
def test_a_longer_plateau_run_counts_no_validation_of_the_shorter_ones_end(tmp_path):
    """Which the straight run has not had: at a rate of zero all are alike, and the
    third after the best lets the rate drop."""
    rule = [
        f"--config.schedule.{option}"
        for option in ("kind=plateau", "learning_rate=0", "patience=3")
    ]
    runs.run(tmp_path, "parts", "--config.train.steps=13", *rule)
    parts = runs.run(tmp_path, "parts", "--config.train.steps=36", *rule)
    straight = runs.run(tmp_path, "straight", "--config.train.steps=36", *rule)
    validated = [line["step"] for line in runs.lines(parts) if "top1_error" in line]
    assert 13 in validated
    assert_same_state(parts, straight, 36)


def test_saves_by_the_clock_change_no_bit(tmp_path, straight):
    """A checkpoint after no minutes is one after every step."""
    often = ("--config.train.save_minutes=0", "--config.checkpoint.keep_every=1")
    runs.run(tmp_path, "run", *often)
    assert runs.checkpoint_steps(tmp_path / "run").keys() == set(range(1, 21))
    assert runs.lines(tmp_path / "run") == runs.lines(straight)
    assert_same_state(tmp_path / "run", straight)


def test_the_minutes_begin_again_with_every_checkpoint(tmp_path, monkeypatch):
    begun, saved = [], Requests.saved
    monkeypatch.setattr(Requests, "saved", lambda self: begun.append(saved(self)))
    runs.run(tmp_path, "run", "--config.train.steps=10")
    # At the start, and with the checkpoints of steps 8 and 10.
    assert len(begun) == 3


def test_a_checkpoint_is_due_so_many_minutes_after_the_last():
    now = 1000.0
    with Interrupts() as interrupts:
        requests = Requests(mesh_of(1, 1), interrupts, minutes=5, clock=lambda: now)
        assert requests.asked() == (0, False)
        now += 299
        requests.saved()
        now += 299
        assert requests.asked() == (0, False)
        now += 1
        assert requests.asked() == (0, True)
        # It may be saved steps later, where several processes have to agree.
        assert requests.asked() == (0, False)
        signal.raise_signal(signal.SIGTERM)
        assert requests.asked() == (signal.SIGTERM, True)


@pytest.mark.slow
def test_a_run_whose_disk_is_lost_comes_back_from_its_mirror(
    tmp_path, straight, monkeypatch, capsys
):
    """Twice: after a step that is not saved, and when it has ended."""
    address, timed_next = f"file://{tmp_path}/there", train.timed_next
    config, workdir = parse(runs.arguments(tmp_path, "run"))
    count = 0

    def crash(*arguments):
        nonlocal count
        count += 1
        if count == 14:
            raise RuntimeError("the machine is taken away")
        return timed_next(*arguments)

    monkeypatch.setattr(train, "timed_next", crash)
    with pytest.raises(RuntimeError, match="taken away"):
        train.run(config, workdir, address)
    monkeypatch.setattr(train, "timed_next", timed_next)
    for step in (10, 20):
        shutil.rmtree(workdir)
        train.run(config, workdir, address)
        said = capsys.readouterr().err
        assert f"step {step} was fetched from {address}" in said
        assert f"continuing from step {step} of" in said
        assert_same_run(workdir, straight)


@pytest.mark.parametrize(
    ("first", "override"),
    [
        pytest.param(
            *("--config.data.threads=2", "--config.data.threads=1"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("--config.data.hold=device", "--config.data.workers=2"),
            marks=pytest.mark.extended,
        ),
        pytest.param(
            *("--config.data.hold=host", "--config.data.hold=device"),
            marks=pytest.mark.extended,
        ),
    ],
)
def test_kill_9_and_resume(tmp_path, straight, first, override):
    process = runs.start(tmp_path, "run", first)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for((tmp_path / "run" / "checkpoints" / "10").is_dir, process)
    process.kill()
    process.communicate()
    assert metrics.exists()
    again = runs.start(tmp_path, "run", override)
    output, errors = again.communicate(timeout=180)
    assert again.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["step"] == 20
    assert "continuing from step" in errors
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.parametrize(
    ("number", "status", "workers"),
    [
        pytest.param(signal.SIGTERM, 143, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, 0, marks=pytest.mark.extended),
        pytest.param(signal.SIGINT, 130, 2, marks=pytest.mark.extended),
        pytest.param(signal.SIGHUP, 129, 2, marks=pytest.mark.extended),
        pytest.param(
            *(signal.SIGUSR1, 128 + signal.SIGUSR1, 0), marks=pytest.mark.extended
        ),
    ],
)
def test_signals_leave_with_their_status(tmp_path, number, status, workers):
    """A terminal sends its signals to the workers too."""
    process = runs.start(
        tmp_path,
        "run",
        "--config.train.steps=100000",
        f"--config.data.workers={workers}",
    )
    wait_for((tmp_path / "run" / "checkpoints" / "10").is_dir, process)
    if number in (signal.SIGINT, signal.SIGHUP):
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    last = runs.lines(tmp_path / "run")[-1]["step"]
    assert last in runs.checkpoint_steps(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.extended
@pytest.mark.skipif(sys.platform != "linux", reason="children are listed by Linux")
def test_a_killed_training_starts_itself_again(tmp_path, straight):
    process = runs.start(tmp_path, "run", "--restarts=2")
    wait_for((tmp_path / "run" / "checkpoints" / "10").is_dir, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(children), signal.SIGKILL)
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["step"] == 20
    assert re.search(
        r"exit status 137, saved at step \d+; restart 1 of 2 in 2 s", errors
    )
    assert "time over 2 starts: " in errors
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("--config.model.norm_k=1.5", "model.norm_k 2.0 -> 1.5"),
        ("--config.train.batch_size=16", "train.batch_size 8 -> 16"),
        ("--config.train.seed=1", "train.seed 0 -> 1"),
        ("--config.data.size=78", "data.size 77 -> 78"),
        ("--config.train.validate_steps=5", "train.validate_steps 8 -> 5"),
        ("--config.schedule.learning_rate=0.5", "schedule.learning_rate 0.01 -> 0.5"),
    ],
)
def test_a_resume_refuses_another_network_or_other_data(straight, override, shown):
    before = contents(straight)
    with pytest.raises(InputError, match=shown.replace(".", r"\.")):
        runs.run(straight.parent, straight.name, override)
    assert contents(straight) == before


def test_a_damaged_config_is_named(straight, tmp_path):
    config = workdirs.read_config(straight)
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    (workdir / "config.json").write_text('{"data": 5}')
    with pytest.raises(InputError, match="config.json is damaged"):
        workdirs.check_run(workdir, config)


def test_other_data_are_refused(straight):
    smaller = open_pipeline(source="digits", size=77, crop=67, validation_fraction=0.9)
    with pytest.raises(InputError, match="the data differ"):
        run_data.check_data(straight, smaller)


@pytest.mark.extended
def test_data_that_break_on_the_way_stop_the_run_at_a_saved_step(tmp_path, straight):
    """The source breaks at one step, and again works in the next start."""
    config, workdir = runs.parse(runs.arguments(tmp_path, "run"))
    setup = build_setup(config)
    source = setup.pipeline.dataset.splits["train"]
    # Each is read once before the first step.
    source = Breaking(source, good=len(source) + 10 * 8)
    dataset = dataclasses.replace(
        setup.pipeline.dataset,
        splits={**setup.pipeline.dataset.splits, "train": source},
    )
    pipeline = dataclasses.replace(setup.pipeline, dataset=dataset)
    with pytest.raises(UnreadableImage, match="digit .* broke"):
        train.train(dataclasses.replace(setup, pipeline=pipeline), workdir)
    saved = max(runs.checkpoint_steps(workdir))
    assert saved == runs.lines(workdir)[-1]["step"] > 0
    runs.run(tmp_path, "run")
    assert_same_run(workdir, straight)


class Breaking(WrappedSource):
    """A source that can't be read any more after so many examples."""

    def __init__(self, source: Source, good: int) -> None:
        super().__init__(source)
        self.good = good

    def __getitem__(self, index: int) -> Example:
        self.good -= 1
        if self.good < 0:
            raise UnreadableImage(f"{self.where(index)} broke")
        return self.source[index]


@pytest.mark.extended
def test_without_a_mean_image_none_is_subtracted(tmp_path):
    short = ("--config.train.steps=1", "--config.data.subtract_mean=False")
    workdir = runs.run(tmp_path, "run", *short)
    np.testing.assert_array_equal(np.load(workdir / "mean.npy"), 0)
    loaded = trained.load(workdir)
    image = np.random.default_rng(0).integers(0, 256, (77, 77, 3), np.uint8)
    np.testing.assert_array_equal(
        loaded.preprocess([image])[0], image[5:72, 5:72].astype(np.float32)
    )


def test_a_run_from_before_a_key_was_there_goes_on(straight, tmp_path):
    older = shutil.copytree(straight, tmp_path / "older")
    config = workdirs.read_config(straight)
    before = json.loads((older / "config.json").read_text())
    del before["model"]["standardize"]
    (older / "config.json").write_text(json.dumps(before))
    workdirs.check_run(older, config)
    config["model"]["standardize"] = True
    with pytest.raises(InputError, match="model.standardize False -> True"):
        workdirs.check_run(older, config)


def test_other_versions_and_settings_are_said_at_a_resume(straight, tmp_path, capsys):
    """They may change the last digits; what is set in the program does not count."""
    workdir = shutil.copytree(straight, tmp_path / "run")
    config = workdirs.read_config(workdir)
    workdirs.start_run(workdir, config)
    assert capsys.readouterr().err == ""
    run = json.loads((workdir / "run.json").read_text())
    run["starts"][-1]["versions"]["jax"] = "0.1.2"
    del run["starts"][-1]["versions"]["numpy"]
    (workdir / "run.json").write_text(json.dumps(run))
    with jax.default_matmul_precision("highest"), jax.default_prng_impl("rbg"):
        workdirs.start_run(workdir, config)
    message = capsys.readouterr().err
    assert message.startswith(f"warning: {workdir} continues with other versions")
    assert "jax '0.1.2' -> " in message
    assert "jax_default_matmul_precision 'None' -> 'highest'" in message
    assert "numpy" not in message and "prng" not in message


def test_another_implementation_is_said_at_a_resume(straight, tmp_path, capsys):
    """It changes how a step is computed, so that a run may go on with it."""
    workdir = shutil.copytree(straight, tmp_path / "run")
    config = workdirs.read_config(workdir)
    run = json.loads((workdir / "run.json").read_text())
    assert run["starts"][-1]["implementation"] == {"model.implementation": "xla"}
    config["model"]["implementation"] = "fused"
    workdirs.check_run(workdir, config)
    chosen = {"implementation": {"model.implementation": "fused"}}
    workdirs.start_run(workdir, config, chosen)
    message = capsys.readouterr().err
    assert "continues with other versions or settings" in message
    assert "model.implementation 'xla' -> 'fused'" in message


def test_fused_on_a_cpu_says_why_xla_runs(straight, tmp_path, capsys):
    overrides = ("--config.model.implementation=fused", "--config.train.steps=20")
    config, workdir = parse(runs.arguments(tmp_path, "run", *overrides))
    shutil.copytree(straight, workdir)
    train.run(config, workdir)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("model.")] == [
        "model.implementation=fused: this is a CPU, and the kernels are for NVIDIA "
        "GPUs; xla runs in their place"
    ]
    assert trained.open_trained(workdir, "latest").model.implementation == "fused"


@pytest.mark.extended
def test_a_start_that_saved_nothing_binds_nobody(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    timed_next = train.timed_next
    monkeypatch.setattr(train, "timed_next", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        runs.run(tmp_path, "run", "--config.train.steps=1")
    monkeypatch.setattr(train, "timed_next", timed_next)
    smaller = ("--config.train.batch_size=4", "--config.data.size=70")
    workdir = runs.run(tmp_path, "run", "--config.train.steps=1", *smaller)
    assert run_data.read_data(workdir).size == 70
    assert runs.checkpoint_steps(workdir).keys() == {1}


@pytest.mark.extended
def test_a_signal_in_the_last_save_does_not_end_it(tmp_path, monkeypatch):
    """The loop is over then, and the run only waits for the disk."""
    leave = CheckpointWriter.__exit__

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return leave(*arguments)

    monkeypatch.setattr(CheckpointWriter, "__exit__", interrupted)
    workdir = runs.run(tmp_path, "run", "--config.train.steps=2")
    assert runs.checkpoint_steps(workdir).keys() == {2}


@pytest.mark.extended
def test_a_signal_in_a_validation_leaves_what_was_learned(
    tmp_path, straight, monkeypatch
):
    over_batches = evaluation.over_batches

    def interrupted(*arguments):
        for number, results in enumerate(over_batches(*arguments)):
            if number == 1:
                signal.raise_signal(signal.SIGINT)
            yield results

    # The second batch of the first validation, after step 8.
    monkeypatch.setattr(evaluation, "over_batches", interrupted)
    small = "--config.eval.batch_size=300"
    with pytest.raises(Interrupted) as caught:
        runs.run(tmp_path, "run", small)
    assert caught.value.exit_status == 130
    monkeypatch.setattr(evaluation, "over_batches", over_batches)
    assert runs.checkpoint_steps(tmp_path / "run") == {8: None}
    runs.run(tmp_path, "run")
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.slow
def test_numbers_that_are_not_finite_are_never_saved(tmp_path):
    wild = ("--config.schedule.learning_rate=1e6", "--config.train.save_steps=1")
    again = (
        r"step \d+, .*again from step \d+: the training diverges, in step \d+ at a "
        r"learning rate of .*; from the loss down, the gradient of fc8 is the first "
        r"that is not finite; .*learning_rate in another"
    )
    with pytest.raises(Diverged, match=again):
        runs.run(tmp_path, "run", *wild)
    steps = runs.checkpoint_steps(tmp_path / "run")
    assert 1 in steps
    for step in steps:
        for name, array in runs.final_state(tmp_path / "run", step).items():
            if "best_error" not in name:
                assert np.isfinite(array).all(), (step, name)
    lines = runs.lines(tmp_path / "run")
    assert all(np.isfinite(line["loss"]) for line in lines)


@pytest.mark.slow
def test_a_run_begins_with_the_parameters_of_another(
    tmp_path, straight, monkeypatch, capsys
):
    """Of the same classes all of them, and with its mean image, on other images; no
    step moves them at a rate of zero."""
    monkeypatch.chdir(tmp_path)
    # As the name of imported weights is given.
    source = "before"
    shutil.copytree(straight, source)
    still = ("--config.schedule.learning_rate=0", "--config.train.seed=9")
    begin = f"--config.train.init_from={source}"
    others = (begin, "--config.data.validation_fraction=0.9", *still)
    workdir = runs.run(tmp_path, "tuned", "--config.train.steps=1", *others)
    best = CheckpointReader(straight / "checkpoints").find("best")
    messages = capsys.readouterr().err
    names = "conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8"
    assert f"starts from {source}, checkpoint of step {best}: takes {names}" in messages
    assert f"mean image: that of {source}" in messages
    shutil.rmtree(source)
    # The same run continues, with the same mean image and without that directory.
    runs.run(tmp_path, "tuned", "--config.train.steps=2", *others)
    means = [np.load(folder / "mean.npy") for folder in (straight, workdir)]
    np.testing.assert_array_equal(*means)
    with pytest.raises(InputError, match="data.mean 'pretrained' -> 'dataset'"):
        runs.run(tmp_path, "tuned", "--config.data.mean=dataset", *others)
    before, after = runs.final_state(straight, best), runs.final_state(workdir, 1)
    kernels = [name for name in before if name.startswith("params.")]
    assert len(kernels) == 16
    for name in kernels:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


@pytest.mark.slow
def test_the_last_layer_is_reinitialised_for_other_classes(straight, capsys):
    mesh = mesh_of(1, 2)
    model = trained.open_trained(straight, "best").model
    params = {
        name: {kind: array + 1 for kind, array in layer.items()}
        for name, layer in trained.open_trained(straight, "best").params(mesh).items()
    }
    others = [f"class {number}" for number in range(10)]
    taken = finetune.init_from(straight, params, model, others, mesh)
    messages = capsys.readouterr().err
    assert "warning" not in messages
    assert "fc7; fc8 is re-initialised, since the classes differ" in messages
    rows = changed(model.layers, conv1={"kernel_std": 0.1})
    otherwise = model.clone(norm_k=1.0, layers=rows)
    finetune.init_from(straight, params, otherwise, others, mesh)
    messages = capsys.readouterr().err
    assert (
        "other settings of the network: model.norm_k=2.0 there and 1.0 here" in messages
    )
    assert "kernel_std" not in messages
    assert taken["fc8"] is params["fc8"]
    for name in params:
        same = (taken[name]["kernel"] == params[name]["kernel"]).all()
        assert bool(same) == (name == "fc8")
    params["conv1"]["kernel"] = params["conv1"]["kernel"][..., :2]
    params["conv9"] = params["conv2"]
    with pytest.raises(InputError, match=r"another network \(conv1 .*conv9 missing"):
        finetune.init_from(straight, params, model, others, mesh)


def test_a_second_run_in_a_directory_is_refused(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    with (
        locked(workdir, ""),
        pytest.raises(InputError, match=f"in use by process {os.getpid()}"),
    ):
        runs.run(tmp_path, "run")
    assert list(workdir.iterdir()) == []


def group(number):
    """The processes of a process group that still run."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=", "-g", str(number)], capture_output=True, text=True
    ).stdout
    return [line for line in listed.splitlines() if " Z" not in line]


def shared_memory():
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGKILL, marks=pytest.mark.extended),
        pytest.param(signal.SIGTERM, marks=pytest.mark.extended),
    ],
)
# One after the other: each counts the machine's shared memory.
@pytest.mark.xdist_group("shared memory")
def test_no_worker_and_no_shared_memory_stays_behind(tmp_path, number):
    """Images so large that batches go through shared memory."""
    before = shared_memory()
    large = ("--config.data.size=300", "--config.data.crop=291")
    process = runs.start(tmp_path, "run", *large, "--config.data.workers=2")
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, process)
    assert len(group(process.pid)) > 2
    process.send_signal(number)
    assert "leaked" not in process.communicate(timeout=60)[1]
    deadline = time.monotonic() + 30
    while group(process.pid) or shared_memory() - before:
        assert time.monotonic() < deadline, (group(process.pid), shared_memory())
        time.sleep(0.1)


@pytest.mark.extended
def test_a_full_disk_loses_nothing(tmp_path, straight):
    """No file may have more bytes: of the mean image, then of a checkpoint."""

    def fails_with(file_bytes, what):
        process = runs.start(tmp_path, "run", file_bytes=file_bytes)
        messages = process.communicate(timeout=120)[1]
        assert process.returncode == 1, messages
        (line,) = [text for text in messages.splitlines() if text.startswith("error: ")]
        assert f"{what} can't be written" in line
        assert "Traceback" not in messages

    fails_with(20_000, "mean.npy")
    process = runs.start(tmp_path, "run")
    kept = tmp_path / "run" / "checkpoints" / "10"
    wait_for(kept.is_dir, process)
    process.kill()
    process.communicate()
    fails_with(40_000, "checkpoints")
    assert max(runs.checkpoint_steps(tmp_path / "run")) >= 10
    runs.run(tmp_path, "run")
    assert_same_run(tmp_path / "run", straight)


def test_an_address_is_no_work_directory():
    with pytest.raises(InputError, match="gs://bucket/run is an address"):
        train.run(load_config("quickstart"), "gs://bucket/run")
    with pytest.raises(InputError, match="s3://bucket/run is an address"):
        trained.load("s3://bucket/run")


def test_an_unknown_section_is_named(tmp_path):
    with pytest.raises(InputError, match="config.optimiser is unknown"):
        train.run({"optimiser": {"momentum": 0.5}}, tmp_path / "run")


def test_a_newer_work_directory_is_refused(tmp_path, straight):
    workdir = tmp_path / "newer"
    workdir.mkdir()
    run = json.loads((straight / "run.json").read_text())
    (workdir / "run.json").write_text(json.dumps({**run, "format_version": 3}))
    with pytest.raises(InputError, match="format 3, newer than the 2"):
        runs.run(tmp_path, "newer")
    assert [path.name for path in workdir.iterdir()] == ["run.json"]


def test_a_work_directory_of_the_first_format_is_refused(tmp_path, straight):
    workdir = tmp_path / "older"
    workdir.mkdir()
    run = json.loads((straight / "run.json").read_text())
    (workdir / "run.json").write_text(json.dumps({**run, "format_version": 1}))
    with pytest.raises(InputError, match=r"format 1, written by alexnet_jax 0\.1"):
        runs.run(tmp_path, "older")
    assert [path.name for path in workdir.iterdir()] == ["run.json"]


def test_a_work_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        runs.run(tmp_path, "file")


def test_a_prepared_data_set_is_no_work_directory(tmp_path, image_folder):
    prepared = tmp_path / "prepared"
    prepare(source="folder", input_path=str(image_folder), output=prepared, size=67)
    before = {path: path.read_bytes() for path in prepared.iterdir()}
    with pytest.raises(InputError, match="holds a data set"):
        runs.run(tmp_path, "prepared")
    assert {path: path.read_bytes() for path in prepared.iterdir()} == before


def test_a_work_directory_among_class_folders_is_said_and_leaves_none(
    tmp_path, image_folder
):
    classes = image_folder / "train"
    data = ("--config.data.source=folder", f"--config.data.path={classes}")
    for _ in range(2):
        with pytest.raises(InputError, match="a work directory belongs elsewhere"):
            runs.run(tmp_path, "images/train/inside", *data)
        assert sorted(p.name for p in classes.iterdir()) == ["class0", "class1"]
    # What was there stays.
    (classes / "mine").mkdir()
    with pytest.raises(InputError, match="mine has no images"):
        runs.run(tmp_path, "images/train/mine", *data)
    assert (classes / "mine").is_dir()


def test_a_prepared_data_set_of_another_size_is_refused(tmp_path, image_folder):
    data = tmp_path / "prepared"
    prepare(source="folder", input_path=str(image_folder), output=data, size=68)
    where = ("--config.data.source=prepared", f"--config.data.path={data}")
    other = "data.size=77, but .* prepared with --size=68; leave data.size out"
    with pytest.raises(InputError, match=other):
        runs.run(tmp_path, "run", *where)
    for size in (68, 256):
        given = runs.arguments(tmp_path, "run", *where, f"--config.data.size={size}")
        assert build_setup(parse(given)[0]).pipeline.dataset.size == 68


@pytest.mark.extended
def test_frozen_layers_keep_their_parameters(tmp_path):
    short = ("--config.train.steps=2", "--config.train.save_steps=2")
    config, workdir = parse(
        runs.arguments(tmp_path, "run", *short, "--config.train.freeze=conv,fc6")
    )
    before = flat({"params": build_setup(config).steps.initial().params})
    train.run(config, workdir)
    after = runs.final_state(workdir, step=2)
    for name, array in before.items():
        frozen = name.split(".")[1] in {*(f"conv{n}" for n in range(1, 6)), "fc6"}
        assert np.array_equal(array, after[name]) == frozen, name


def test_unknown_keys_of_a_section_are_named():
    with pytest.raises(InputError, match=r"config.train.epoch is unknown; .*epochs"):
        sections.section({"train": {"epoch": 3}}, "train")


def test_plans():
    plan = make_plan(examples=100, batch_size=8, epochs=2)
    assert plan.steps == 25
    assert [step for step in range(26) if plan.validates(step)] == [13, 25]
    plan = make_plan(
        examples=100, batch_size=8, steps=10, epochs=9, validate_steps=4, save_steps=3
    )
    assert [step for step in range(11) if plan.validates(step)] == [4, 8, 10]
    assert [step for step in range(1, 11) if plan.saves(step)] == [3, 6, 9]
    # Epoch 15 ends with the last example of step 500, and not at step 501.
    plan = make_plan(examples=1000, batch_size=30, epochs=20)
    validated = [step for step in range(plan.steps + 1) if plan.validates(step)]
    borders = [-(-epoch * 1000 // 30) for epoch in range(1, 20)]
    assert validated == [*borders, plan.steps]
    assert 500 in validated
    with pytest.raises(InputError, match=r"give train.steps or train.epochs"):
        make_plan(examples=100)
    with pytest.raises(
        InputError, match=r"train.epochs=0.01 is no step: an epoch of 4"
    ):
        make_plan(examples=4, batch_size=64, epochs=0.01)
    with pytest.raises(InputError, match=r"train.validate_steps=0 must be at least 1"):
        make_plan(examples=100, steps=1, validate_steps=0)
    with pytest.raises(InputError, match=r"train.save_minutes=-1 must not be negative"):
        make_plan(examples=100, steps=1, save_minutes=-1)


def test_differences_are_found_at_any_depth():
    before = {"a": {"b": (1, 2), "c": None}, "d": 1}
    after = {"a": {"b": [1, 3]}, "d": 1, "e": "x"}
    assert config_changes.differences(before, after) == [
        ("a.b", [1, 2], [1, 3]),
        ("e", None, "x"),
    ]


def test_configs_are_the_arguments_of_one_function():
    """Each section of each config calls its function, with nothing left over or out."""
    names = {path.stem for path in (Path(__file__).parents[1] / "configs").glob("*.py")}
    assert {"quickstart", "finetune"} <= names
    for name in names:
        config = sections.plain(load_config(name))
        assert set(config) == set(sections.SECTIONS), name
        for section in config:
            assert set(config[section]) == set(sections.parameters(section)), (
                name,
                section,
            )


def loss_lost(step: int, result):
    state, metrics = result
    return state, {**metrics, "loss": metrics["loss"] * np.float32("nan")}


def layer_lost(layer: str):
    def lose(step: int, result):
        state, metrics = result
        broken = jax.tree.map(lambda a: a * np.float32("inf"), state.params[layer])
        return state._replace(params={**state.params, layer: broken}), metrics

    return lose


def bit_flipped(step: int, result):
    """The lowest bit of every number of one bias."""
    state, metrics = result
    bias = state.params["conv2"]["bias"]
    host = (np.asarray(bias).view(np.uint32) ^ 1).view(np.float32)
    bias = jax.device_put(host, bias.sharding)
    layer = {**state.params["conv2"], "bias": bias}
    return state._replace(params={**state.params, "conv2": layer}), metrics


def faulty(step: TrainStep, fault, when: Callable[[int, int], bool]) -> TrainStep:
    """A training step with a fault where `when` says so of the call and the step."""
    calls = 0

    def run(*arguments):
        nonlocal calls
        calls += 1
        result = step(*arguments)
        number = int(result[0].step)
        return fault(number, result) if when(calls, number) else result

    return run


def train_with(folder: Path, fault, when, *overrides: str) -> None:
    config, workdir = parse(runs.arguments(folder, "run", *overrides))
    setup = build_setup(config)
    broken = faulty(setup.steps.train, fault, when)
    steps = dataclasses.replace(setup.steps, train=broken)
    train.train(dataclasses.replace(setup, steps=steps), workdir)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param(
            *(loss_lost, "step 13, .*: the loss is nan; not again from step 10"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(
                layer_lost("fc7"),
                "step 14, .*: the loss is nan; not again from step 10",
            ),
            marks=[pytest.mark.slow, pytest.mark.extended],
        ),
    ],
)
def test_a_device_that_errs_once_is_named_and_the_run_goes_on(
    tmp_path, straight, fault, said
):
    wrong = said + r": this device computes wrong \(.+: cpu:0, .*\); nothing of it is "
    with pytest.raises(Miscomputed, match=wrong):
        train_with(tmp_path, fault, lambda call, step: call == 13)
    assert max(runs.checkpoint_steps(tmp_path / "run")) == 10
    workdir = runs.run(tmp_path, "run")
    assert_same_run(workdir, straight)


@pytest.mark.slow
@pytest.mark.extended
@pytest.mark.parametrize("step", [3, 20])
def test_a_program_that_diverges_does_so_again(tmp_path, step):
    """Before the first save, from the start; in the last step, found by its save."""
    said = (
        f"again from step {0 if step == 3 else 16}: the training diverges, in step "
        f"{step} at a learning rate of 0.01; from the loss down, the gradient of conv4 "
    )
    with pytest.raises(Diverged, match=said):
        train_with(tmp_path, layer_lost("conv4"), lambda _, number: number == step)


@pytest.mark.extended
def test_a_step_computed_twice_shows_silent_corruption(tmp_path, straight):
    """Calls 5 and 6 compute step 5. With every step computed twice the bits stay."""
    said = r"step 5, computed twice .* other bytes in params.conv2.bias.*computes wrong"
    often = "--config.train.check_every=5"
    with pytest.raises(Miscomputed, match=said):
        train_with(tmp_path, bit_flipped, lambda call, _: call == 6, often)
    assert_same_run(runs.run(tmp_path, "run", "--config.train.check_every=1"), straight)


@pytest.mark.extended
def test_the_same_spikes_are_skipped_after_a_resume(tmp_path, straight, monkeypatch):
    """With so low a threshold that the digits have spikes."""
    monkeypatch.setattr(spikes, "BEFORE", 3)
    monkeypatch.setattr(spikes, "SPIKE", 0.5)
    monkeypatch.setattr(spikes, "OVER_LARGEST", 1.0)
    skip = "--config.train.skip_spikes=True"
    whole = runs.run(tmp_path, "whole", skip)
    noted = [s.step for s in metrics_file.read_spikes(whole)]
    assert min(noted) < 10 < max(noted) < 20
    # The first one is skipped, and not before.
    lines, others = runs.lines(whole), runs.lines(straight)
    place = lines.index(next(line for line in lines if "loss_spike" in line))
    assert lines[:place] == others[:place] and lines[place + 1] != others[place + 1]

    timed_next, count = train.timed_next, iter(range(20))

    def crash(*arguments):
        if next(count) == 13:
            raise RuntimeError("power cut")
        return timed_next(*arguments)

    monkeypatch.setattr(train, "timed_next", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        runs.run(tmp_path, "run", skip)
    monkeypatch.setattr(train, "timed_next", timed_next)
    assert_same_run(runs.run(tmp_path, "run", skip), whole)
    with pytest.raises(InputError, match="train.skip_spikes True -> False"):
        runs.run(tmp_path, "run")


def test_how_often_a_step_is_checked_is_a_positive_number():
    with pytest.raises(InputError, match="train.check_every=0 must be at least 1"):
        make_plan(examples=8, steps=1, check_every=0)
