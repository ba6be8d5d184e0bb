"""Experiments train on arrays in memory, by the package's own loop."""

import argparse
import base64
import json
import runpy
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import alexnet_jax
from alexnet_jax import preset_config
from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.prepared.preparation import prepare
from alexnet_jax.data.sources.arrays import array_dataset, save_arrays
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.presets import ABLATIONS
from alexnet_jax.runs import config_changes
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import completed, plain
from alexnet_jax.runs.setup import build_setup
from alexnet_jax.runtime.errors import Failure, InputError, Interrupted
from alexnet_jax.runtime.signals import Interrupts

from references import recount
from runs import checkpoint_steps, final_digests, lines


sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments" / "ablations"))

import arrays
import differences
import experiment
import imagenette
import many_programs
import many_runs
import outcomes
import resumable
import rows
from signals import signals


GENERALISATION = experiment.ROOT / "experiments" / "generalisation"


@pytest.fixture(scope="module")
def digits():
    """Fifty digits in each split."""
    dataset = arrays.digits(14)
    sources = {split: arrays.source_of(dataset, split) for split in dataset.splits}
    return array_dataset(
        {split: source.images[:50] for split, source in sources.items()},
        {split: source.labels[:50] for split, source in sources.items()},
        dataset.class_names,
    )


def same_arrays(found: Dataset, expected: Dataset) -> None:
    for split in expected.splits:
        ours, theirs = (arrays.source_of(data, split) for data in (found, expected))
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_arrays_survive_the_way_to_another_machine(digits, tmp_path):
    save_arrays(tmp_path / "digits.npz", digits)
    found = arrays.open_data(tmp_path / "digits.npz")
    assert found.class_names == digits.class_names
    assert (found.size, found.fingerprint) == (digits.size, digits.fingerprint)
    same_arrays(found, digits)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "digits.npz").read_bytes()[:99])
    with pytest.raises(InputError, match=r"cut.npz is no file of arrays"):
        arrays.open_data(tmp_path / "cut.npz")


def test_a_prepared_set_is_written_into_one_file(
    image_folder, tmp_path, monkeypatch, capsys
):
    prepared = tmp_path / "prepared"
    prepare(
        source="folder",
        input_path=str(image_folder),
        output=prepared,
        size=16,
        encoding="raw",
        workers=1,
    )

    def written(output):
        arguments = ["arrays.py", f"--data={prepared}", f"--output={output}"]
        monkeypatch.setattr(sys, "argv", arguments)
        arrays.main()

    written(tmp_path / "set.npz")
    expected = arrays.open_data(prepared)
    found = arrays.open_data(tmp_path / "set.npz")
    assert found.class_names == expected.class_names
    same_arrays(found, expected)
    result = json.loads(capsys.readouterr().out)
    assert result["train"] == len(expected.splits["train"])
    with pytest.raises(InputError, match="set.npy must end in .npz"):
        written(tmp_path / "set.npy")


def set_up(digits, *, enough=lambda workdir: False, **settings):
    return build_setup(config_of(**settings), digits, enough)


def config_of(*, epochs, rate=0.01):
    config = preset_config("four_layers")
    for name in ("conv1", "conv2", "conv3"):
        config.model.layers[name].channels = 4
    config.data.update({"crop": 12, "threads": 1})
    config.schedule.update({"kind": "steps", "learning_rate": rate})
    config.train.update({"batch_size": 8, "epochs": epochs, "seed": 1})
    config.eval.batch_size = 50
    config.checkpoint.update(experiment.LATEST_ONLY)
    return config


def test_a_set_up_of_a_data_set_that_is_open_has_every_section():
    """Those that read a run look into `data`, whether the config had it or not."""
    images = np.zeros((2, 224, 224, 3), np.uint8)
    splits = ("train", "validation")
    labels = np.array([0, 1])
    dataset = array_dataset(
        dict.fromkeys(splits, images), dict.fromkeys(splits, labels), ["a", "b"]
    )
    config = plain(config_of(epochs=1.0))
    del config["data"]
    config["train"]["batch_size"] = 2
    assert build_setup(config, dataset).config["data"] == {}


def recipes():
    """What later years have added, all at once."""
    config = config_of(epochs=3.0)
    config.data.update({"crop_area": 0.3, "mixup": 0.2, "randaugment": 0.3})
    config.optimizer.update({"average": 0.9, "decoupled_decay": True})
    config.schedule.update({"kind": "cosine", "warmup_epochs": 0.5})
    config.train.label_smoothing = 0.1
    return config


def further_recipes():
    """Those that exclude some of the others."""
    config = config_of(epochs=3.0)
    config.data.cutmix = 1.0
    config.schedule.swa_epochs = 1.0
    return config


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(lambda: config_of(epochs=3.0), marks=pytest.mark.extended),
        pytest.param(recipes, marks=pytest.mark.extended),
        pytest.param(further_recipes, marks=pytest.mark.extended),
    ],
    ids=["as in 2012", "recipes", "further recipes"],
)
def test_many_runs_in_one_process_have_the_bits_of_the_command(
    config, digits, tmp_path
):
    """One stopped and resumed, its images from the host; another one in between."""
    config = config()
    config.mesh.update({"data": "1", "tower": "1"})
    experiment.fit(build_setup(config, digits, lambda workdir: True), tmp_path)
    result = experiment.fit(build_setup(config, digits), tmp_path)
    assert result is not None and result["step"] == 19
    expected = alexnet_jax.load(tmp_path, checkpoint="latest").variables["params"]
    on = many_programs.hold(Pipeline(digits, crop=12))
    program = many_programs.make_program(config, Pipeline(digits, crop=12), on.mesh)
    other = many_runs.run(program, on, seed=2)
    found = many_runs.run(program, on, seed=1)
    for layer, arrays_of in expected.items():
        for name, array in arrays_of.items():
            np.testing.assert_array_equal(found.params[layer][name], array)
            assert (other.params[layer][name] != array).any()
    assert found.one.top1_error == pytest.approx(result["top1_error"])
    assert found.one.loss == pytest.approx(result["loss"], rel=1e-5)
    train = experiment.metrics_of(tmp_path, "train")
    by_epoch = [train[:7], train[7:13], train[13:]]
    means = [np.mean([line["loss"] for line in part]) for part in by_epoch]
    np.testing.assert_allclose(found.losses, means, rtol=1e-4)


def full(checkpoints, saving):
    raise Failure("the disk is full")


class Cut(Interrupts):
    """At a check a signal comes, or what nobody expects."""

    def __init__(self, check, number=None):
        super().__init__()
        self._left, self._number = check, number

    def check(self):
        self._left -= 1
        if not self._left and self._number is None:
            raise ZeroDivisionError
        if not self._left:
            self.received = self._number
        super().check()


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [recipes, pytest.param(further_recipes, marks=pytest.mark.extended)],
)
def test_an_average_goes_on_where_a_run_is_cut(digits, tmp_path, config):
    pipeline = Pipeline(digits, crop=12)
    on = many_programs.hold(pipeline)
    config = config()
    config.train.epochs = 1.25
    program = many_programs.make_program(config, pipeline, on.mesh)
    whole = many_runs.run(program, on, seed=1)
    for step in range(1, program.plan.steps + 1):
        with pytest.raises(Interrupted):
            resumable.run(program, on, 1, "run", tmp_path, Cut(1, signal.SIGTERM))
        assert list(checkpoint_steps(tmp_path)) == [step]
    found = resumable.run(program, on, 1, "run", tmp_path, Interrupts())
    assert found.losses == whole.losses and found.ten.loss == whole.ten.loss
    for one, other in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(whole.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_run_that_is_cut_goes_on_to_the_same_bits(
    digits, tmp_path, capsys, monkeypatch
):
    pipeline = Pipeline(digits, crop=12)
    on = many_programs.hold(pipeline)
    program = many_programs.make_program(config_of(epochs=1.0), pipeline, on.mesh)
    whole = many_runs.run(program, on, seed=1)

    def run(name, interrupts, minutes=5.0):
        folder = tmp_path / name
        return resumable.run(program, on, 1, name, folder, interrupts, minutes=minutes)

    # The first piece is one step; after the last one the evaluation is stopped.
    last = program.plan.steps
    for step in (*range(1, last + 1), last):
        with pytest.raises(Interrupted):
            run("stopped", Cut(1, signal.SIGTERM))
        assert list(checkpoint_steps(tmp_path / "stopped")) == [step]
    assert "stopped goes on from step 5" in capsys.readouterr().err
    # Saved before the second piece, which is lost.
    with pytest.raises(ZeroDivisionError):
        run("broken", Cut(2), minutes=0.0)
    assert list(checkpoint_steps(tmp_path / "broken")) == [1]

    def breaks(*arguments, **options):
        raise ZeroDivisionError

    # What is saved once is saved again before its evaluation.
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(many_runs, "evaluate", breaks)
        run("broken", Interrupts())
    assert list(checkpoint_steps(tmp_path / "broken")) == [last]
    # A stop that can't save says so, and not that it has.
    with monkeypatch.context() as patch, pytest.raises(Failure, match="full"):
        patch.setattr(CheckpointWriter, "_commit", full)
        run("full", Cut(1, signal.SIGTERM))
    assert "full stops" not in capsys.readouterr().err
    for name in ("stopped", "broken"):
        found = run(name, Interrupts())
        assert found.losses == whole.losses
        assert found.ten.loss == whole.ten.loss
        for one, other in zip(
            jax.tree.leaves(found.params), jax.tree.leaves(whole.params), strict=True
        ):
            np.testing.assert_array_equal(one, other)
        assert found.seconds[0] > 0


def test_the_length_belongs_to_a_rate_that_ends_at_zero(tmp_path):
    config = completed(plain(recipes()))
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "config.json").write_text(json.dumps(config))
    longer = {**config, "train": {**config["train"], "epochs": 4.0}}
    with pytest.raises(InputError, match=r"train.epochs 3.0 -> 4.0"):
        workdirs.check_run(tmp_path, longer)
    config["schedule"]["kind"] = longer["schedule"]["kind"] = "steps"
    (tmp_path / "config.json").write_text(json.dumps(config))
    workdirs.check_run(tmp_path, longer)


@pytest.mark.extended
def test_a_run_continues_where_it_stood(digits, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    experiment.fit(set_up(digits, epochs=3.0), whole)
    experiment.fit(set_up(digits, epochs=3.0, enough=lambda workdir: True), parts)
    # An epoch of 50 examples is over after 7 batches of 8.
    assert list(checkpoint_steps(parts)) == [7]
    capsys.readouterr()
    for _ in range(2):
        result = experiment.fit(set_up(digits, epochs=3.0), parts)
        assert result is not None and result["step"] == 19
    assert "continuing from step 7" in capsys.readouterr().err
    assert lines(whole) == lines(parts)
    assert list(checkpoint_steps(whole)) == list(checkpoint_steps(parts)) == [19]
    expected, found = final_digests(whole, 19), final_digests(parts, 19)
    for name, digest in expected.items():
        np.testing.assert_array_equal(digest, found[name])


@pytest.mark.extended
def test_enough_ends_a_run_also_when_it_is_started_again(digits, tmp_path):
    seen = []
    for _ in range(2):
        setup = set_up(digits, epochs=9.0, enough=lambda workdir: True)
        result = experiment.fit(setup, tmp_path / "run")
        seen.append((result, lines(tmp_path / "run")))
    assert seen[0][0]["step"] == 7
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_a_run_that_diverges_is_a_result(digits, tmp_path, capsys):
    run = tmp_path / "run"
    assert experiment.fit(set_up(digits, epochs=2.0, rate=1e30), run) is None
    assert "step" in capsys.readouterr().err
    assert len(experiment.metrics_of(run, "train")) < 7
    assert experiment.metrics_of(run, "validation") == []


@pytest.mark.extended
def test_another_network_resumes_with_more_epochs(digits, tmp_path, monkeypatch):
    """Networks of Zhang et al. have steps of their own, and are trained by the same
    loop."""
    monkeypatch.syspath_prepend(GENERALISATION)
    run = runpy.run_path(str(GENERALISATION / "run.py"))["run"]
    dataset = arrays.digits(32)

    def train(folder, epochs):
        given = argparse.Namespace(runs=tmp_path / folder, epochs=epochs, seed=0)
        return run(dataset, "mlp", "plain", given)

    train("parts", 0.5)
    whole, parts = train("whole", 1.0), train("parts", 1.0)
    for what in ("epochs", "train", "test", "parameters"):
        assert whole[what] == parts[what]
    digests = [
        final_digests(tmp_path / name / "mlp-plain-0", 11)
        for name in ("whole", "parts")
    ]
    for name, digest in digests[0].items():
        np.testing.assert_array_equal(digest, digests[1][name])


@pytest.mark.slow
def test_the_gradient_beside_finite_differences(digits):
    model = set_up(digits, epochs=1.0).model
    assert isinstance(model, AlexNet)
    source = arrays.source_of(digits, "train")
    images = source.images[:, 1:13, 1:13].astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), images[:1])["params"]
    sizes = signals(model, params, images, source.labels)
    assert [size["layer"] for size in sizes] == list(model.layers)

    @jax.jit
    def logits_of(kernel):
        changed = {**params, "fc4": {**params["fc4"], "kernel": kernel}}
        return model.apply({"params": changed}, images)

    def loss(kernel):
        logits = np.asarray(logits_of(kernel), np.float64)
        logits -= logits.max(-1, keepdims=True)
        own = logits[np.arange(len(images)), source.labels]
        return np.mean(np.log(np.exp(logits).sum(-1)) - own)

    # The loss is nearly linear this close; along a random direction the slope's mean
    # square is that of the gradient over the number of directions.
    kernel = np.asarray(params["fc4"]["kernel"])
    rng, slopes = np.random.default_rng(0), []
    for _ in range(300):
        direction = rng.choice([-1.0, 1.0], kernel.shape)
        step = (1e-2 * direction).astype(np.float32)
        slopes.append((loss(kernel + step) - loss(kernel - step)) / 2e-2)
    norm = np.sqrt(np.mean(np.square(slopes))) / np.linalg.norm(kernel)
    assert sizes[-1]["gradient"] == pytest.approx(norm, rel=0.15)


def a_run(row, seed, correct):
    # With one crop, one more in ten wrong.
    one = correct & (np.arange(len(correct)) % 10 > 0)
    return {
        "row": row,
        "seed": seed,
        "examples": len(correct),
        "set": "0123",
        "epochs": 1.0,
        "dtype": "float32",
        "overrides": [],
        "top1_error": 1 - correct.mean(),
        "top1_error_one_crop": 1 - correct.mean(),
        "hours": 1.0,
        "correct": base64.b64encode(np.packbits(correct).tobytes()).decode(),
        "correct_one_crop": base64.b64encode(np.packbits(one).tobytes()).decode(),
    }


def test_a_difference_is_paired_and_its_interval_that_of_images_and_seeds():
    """Runs of one base that agree on most images: pairs vary less than each run."""
    rng = np.random.default_rng(0)
    base = rng.random((3, 2001)) < 0.8
    # A tenth of the right answers turn wrong, and a few of the wrong ones right.
    row = np.where(base, rng.random(base.shape) < 0.9, rng.random(base.shape) < 0.1)
    lines = [a_run("code2012", seed, c) for seed, c in enumerate(base)]
    lines += [a_run("no_norm", seed, c) for seed, c in enumerate(row)]
    lines += [a_run("no_crops", 0, row[0])]
    found = differences.table(lines)
    worse = 100 * (base.astype(float) - row)
    own = found["no_norm"]
    assert own["worse_by"] == pytest.approx(worse.mean(), abs=0.006)
    np.testing.assert_allclose(own["worse_by_each"], worse.mean(axis=1), atol=0.006)
    # Variances of both draws add up: of the mean over images, and of that over seeds.
    deviation = np.sqrt(
        worse.mean(axis=0).var() / 2001
        + worse.mean(axis=1).var() / 3
        + (worse.var() - worse.mean(axis=0).var()) / 2001 / 3
    )
    half = (own["interval"][1] - own["interval"][0]) / 2
    assert half == pytest.approx(1.96 * deviation, rel=0.1)
    assert own["published"]["paper"] == (1.4, 1.2)
    gain = 100 * row[:, ::10].sum() / row.size
    assert own["ten_crops"]["better_by"] == pytest.approx(gain, abs=0.006)
    assert found["code2012"]["worse_by"] is None
    # One seed is compared with the same one of the base.
    assert found["no_crops"]["worse_by_each"] == own["worse_by_each"][:1]


def test_runs_of_two_protocols_are_not_compared(tmp_path):
    """Neither epochs nor the images' bytes nor the arithmetic may differ, but of the
    rows that train longer than all others."""
    rng = np.random.default_rng(0)

    def run(row, right, **protocol):
        return a_run(row, 0, np.arange(1000) < 10 * right) | protocol

    short = [run("code2012", 80), run("no_norm", 70), run("long", 90, epochs=9.0)]
    others = [
        run("code2012", 60, epochs=2.0),
        run("no_norm", 55, epochs=2.0),
        run("no_norm", 30, dtype="bfloat16"),
        run("no_norm", 30, dtype="bfloat16", maxima="first"),
        run("no_norm", 20, set="4567"),
        run("no_norm", 10, overrides=["--config.train.batch_size=64"]),
    ]
    lines = [*short, *others]
    rng.shuffle(lines)
    found = {
        (
            *(table["epochs"], table["dtype"], table["set"], table["maxima"]),
            *table["overrides"],
        ): {name: row["worse_by"] for name, row in table["rows"].items()}
        for table in differences.tables(lines)
    }
    # Where nothing else is there, they have a table of their own.
    last = {"epochs": 9.0, "dtype": "bfloat16"}
    alone = [run("long", 90, **last), run("modern_long", 95, **last)]
    slow = [run("long@0.003", 80, **last), run("modern_long@0.003", 83, **last)]
    (own,) = differences.tables([*alone, *slow])
    assert own["epochs"] == 9.0
    assert own["rows"]["modern_long"]["worse_by"] == -5.0
    assert own["rows"]["modern_long@0.003"]["worse_by"] == -3.0
    differences.draw([own], tmp_path / "own.svg")
    differences.draw(differences.tables(lines), tmp_path / "all.svg")
    assert (tmp_path / "all.svg").read_text().count("epochs") == 2
    differences.draw([], tmp_path / "none.svg")
    alike = ("float32", "0123", "every")
    assert found == {
        (1.0, *alike): {"code2012": None, "no_norm": 10.0, "long": -10.0},
        (2.0, *alike): {"code2012": None, "no_norm": 5.0, "long": -30.0},
        (1.0, "bfloat16", "0123", "every"): {"no_norm": None},
        (1.0, "bfloat16", "0123", "first"): {"no_norm": None},
        (1.0, "float32", "4567", "every"): {"no_norm": None},
        (1.0, *alike, "--config.train.batch_size=64"): {"no_norm": None},
    }


def test_a_row_changes_what_its_name_says_and_nothing_else(tmp_path):
    given = argparse.Namespace(
        quick=False, data=tmp_path, epochs=30.0, dtype="bfloat16"
    )

    def changed(row, base="code2012"):
        before, after = (plain(rows.config_of(name, given, [])) for name in (base, row))
        return {key: new for key, _, new in config_changes.differences(before, after)}

    assert changed("no_dropout@0.003", "no_dropout") == {
        "schedule.learning_rate": 0.003
    }
    assert changed("average") == {"optimizer.average": 0.999}
    assert changed("initial_0.01") == {
        f"model.layers.conv{n}.kernel_std": 0.01 for n in (3, 4, 5)
    }
    assert changed("cutmix") == {"data.cutmix": 1.0}
    assert changed("swa") == {
        "schedule.epochs": [20],
        "schedule.factor": 0.2,
        "schedule.swa_epochs": 20,
    }
    assert changed("five_networks") == {}
    assert changed("long") == {"train.epochs": 90.0, "schedule.epochs": [60, 78]}
    assert changed("long@0.003", "long") == {"schedule.learning_rate": 0.003}
    # What 2012's run does in its last quarter is in no row, however long.
    for row in ("code2012", "long", "modern_long", "swa"):
        schedule = plain(rows.config_of(row, given, []))["schedule"]
        assert schedule["colour_epochs"] is None and not schedule["layer_rates"]
    assert changed("paper_initial_0.03", "paper") == {
        f"model.layers.conv{n}.kernel_std": 0.03 for n in (3, 4, 5)
    }
    assert changed("modern_long", "modern") == changed("long")
    with pytest.raises(InputError, match="no row no_lrn; choose from code2012, no_no"):
        changed("no_lrn")


def test_an_override_wins_over_what_a_row_sets(tmp_path):
    given = argparse.Namespace(quick=False, data=tmp_path, epochs=30.0, dtype="float32")
    drops, rate = "--config.schedule.epochs=(1.0,2.0)", "schedule.learning_rate=0.05"
    for row, override, (section, key), value in (
        ("mixup", "--config.data.mixup=0.4", ("data", "mixup"), 0.4),
        ("modern", "--config.optimizer.average=0.9", ("optimizer", "average"), 0.9),
        ("swa", drops, ("schedule", "epochs"), (1.0, 2.0)),
        ("tanh@0.003", f"--config.{rate}", ("schedule", "learning_rate"), 0.05),
    ):
        config = plain(rows.config_of(row, given, [override]))
        assert config[section][key] == value


@pytest.mark.parametrize(
    ("section", "settings", "shown"),
    [
        ("schedule", {"kind": "plateau"}, "schedule.kind=plateau drops the rate by"),
        ("train", {"init_from": "run"}, "train.init_from: runs here begin with"),
        ("train", {"batch_size": 7}, "train.batch_size=7 on 1 device gives each an od"),
    ],
)
def test_what_the_command_alone_does_is_refused(digits, section, settings, shown):
    config = recipes()
    getattr(config, section).update(settings)
    on = many_programs.hold(Pipeline(digits, crop=12))
    with pytest.raises(InputError, match=shown):
        many_programs.make_program(config, Pipeline(digits, crop=12), on.mesh)


def test_networks_together_have_the_mean_of_their_probabilities():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 60)
    each = rng.normal(0, 2, (5, 60, 10, 7))
    results = [
        many_runs.Result(
            params=None,
            losses=[place, 2.0 * place],
            one=many_runs.errors(logits[:, 2:3], labels),
            ten=many_runs.errors(logits, labels),
            seconds=(1.0, 0.25),
            views=10,
        )
        for place, logits in enumerate(each)
    ]
    found = outcomes.described_together(results, labels)
    whole = np.concatenate(list(each), axis=1)
    expected = recount(whole, labels, np.ones(60, bool))
    assert found["top1_error"] == pytest.approx(expected["top1_error"] / 60)
    assert found["loss"] == pytest.approx(expected["loss"] / 60, abs=1e-5)
    centre = recount(whole[:, 2::10], labels, np.ones(60, bool))
    assert found["top1_error_one_crop"] == pytest.approx(centre["top1_error"] / 60)
    alone = [
        recount(logits, labels, np.ones(60, bool))["top1_error"] / 60 for logits in each
    ]
    np.testing.assert_allclose(found["top1_error_alone"], alone)
    right = differences.correct(found)
    assert 1 - right.mean() == pytest.approx(found["top1_error"])
    assert found["train_losses"] == [2.0, 4.0] and found["seconds"] == [5.0, 1.25]
    assert found["views"] == 10


def test_every_row_is_in_one_table_and_none_is_forgotten(tmp_path):
    """What has a line is not trained again, whichever command made it."""
    for row in rows.BY_VALUE:
        assert [row in table for table in rows.TABLES.values()].count(True) == 1
    assert set(rows.CHANGED) <= set(rows.BY_VALUE) and rows.BY_VALUE[0] == rows.WHOLE
    assert {rows.name_of(row) for row in rows.BY_VALUE} >= set(ABLATIONS)
    given = argparse.Namespace(
        quick=False,
        output=tmp_path,
        epochs=30.0,
        seeds=[0, 1],
        rows=[*rows.BY_VALUE, "long@0.003"],
    )
    what = {"set": "a", "held_out": 0.0, "dtype": "float32", "overrides": []}
    for name, line in (
        ("imagenette", {"row": "no_norm", "seed": 1, "epochs": 30.0, **what}),
        ("modern", {"row": "long", "seed": 0, "epochs": 90.0, **what}),
        ("modern", {"row": "long@0.003", "seed": 1, "epochs": 90.0, **what}),
        ("modern", {"row": "cosine", "seed": 0, "epochs": 30.0, **what, "set": "b"}),
    ):
        experiment.keep(tmp_path / f"{name}.jsonl", line, *imagenette.IDENTITY)
    missing = imagenette.missing(given, what)
    assert list(missing) == given.rows
    seeds = {row: [run["seed"] for run in runs] for row, runs in missing.items()}
    assert seeds.pop("no_norm") == [0] and seeds.pop("long") == [1]
    assert seeds.pop("long@0.003") == [0]
    assert set(map(tuple, seeds.values())) == {(0, 1)}


def test_a_part_of_the_training_images_is_held_out(digits):
    part = imagenette.training_part(digits, 0.2)
    names = {
        split: [source.name(index) for index in range(len(source))]
        for split, source in part.splits.items()
    }
    assert not set(names["train"]) & set(names["validation"])
    assert len(names["train"]) + len(names["validation"]) == 50
    assert 8 <= len(names["validation"]) <= 12
