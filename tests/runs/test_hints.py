"""What a run says at its start."""

import re
import shlex
from pathlib import Path

import pytest

from alexnet_jax import prepare as prepare_command
from alexnet_jax.data.loading.pipeline import open_pipeline
from alexnet_jax.data.prepared.preparation import prepare
from alexnet_jax.main import parse
from alexnet_jax.runs import hints
from alexnet_jax.runs.setup import build_setup
from alexnet_jax.training.plan import make_plan

import forms
import runs


def test_one_line_says_what_is_trained(tmp_path):
    setup = build_setup(parse(runs.arguments(tmp_path, "run"))[0])
    assert hints.type_hints(setup) == []
    kernels = 2 * (363 * 4 + 100 * 6 + 108 * 4 + 36 * 6 + 54 * 4 + 8 * 8 + 16 * 6 + 60)
    parameters = kernels + (8 + 12 + 8 + 12 + 8 + 16 + 12 + 10)
    assert hints.opening_line(setup, Path("run")) == (
        f"90 training and 1,707 validation images of 10 classes, {parameters:,} "
        "parameters, batch 8, 20 steps on 2 CPU devices (data 1 x tower 2), into run"
    )


@pytest.mark.parametrize(
    ("platform", "kind", "capability", "gains"),
    [
        ("gpu", "NVIDIA H100 80GB HBM3", "9.0", True),
        ("gpu", "NVIDIA A100-SXM4-40GB", "8.0", True),
        ("gpu", "NVIDIA RTX PRO 6000", "12.0", True),
        ("gpu", "Tesla T4", "7.5", False),
        ("gpu", "Tesla V100-SXM2-16GB", "7.0", False),
        ("gpu", "AMD Instinct MI300X", "gfx942", True),
        ("gpu", "some GPU", "", None),
        ("tpu", "TPU v5 lite", "", True),
        ("cpu", "a CPU", "", False),
    ],
)
def test_the_type_that_a_device_is_fast_in_is_named(platform, kind, capability, gains):
    narrow = hints.type_advice("bfloat16", platform, kind, capability)
    wide = hints.type_advice("float32", platform, kind, capability)
    assert (wide is not None) == (gains is True)
    assert (narrow is not None) == (gains is False)
    if wide:
        assert kind in wide and "--config.model.dtype=bfloat16" in wide
        assert "not measured" in wide
    if narrow:
        assert kind in narrow and "gains no speed" in narrow


def test_advice_on_slow_reading_fits_the_data(tmp_path, image_folder):
    def advice(**settings):
        pipeline = open_pipeline(crop=67, **settings)
        return hints.faster_reading(pipeline)

    files = {"source": "folder", "path": str(image_folder), "size": 67}
    assert "alexnet_jax.prepare" in advice(**files)
    assert "alexnet_jax.prepare" in advice(**files, random_labels=0.5)
    for encoding in ("jpeg", "raw"):
        data = tmp_path / encoding
        prepare(
            source="folder",
            input_path=str(image_folder),
            output=data,
            size=67,
            encoding=encoding,
        )
        said = advice(source="prepared", path=str(data))
        assert ("--encoding=raw" in said) == (encoding == "jpeg")
    assert "prepare" not in advice(source="digits", size=77)


def test_the_advice_to_prepare_gives_the_same_images(tmp_path):
    """The columns and the size of the config, and a path that a shell would cut."""
    path = tmp_path / "two columns"
    forms.two_columns(path)
    given = {"source": "parquet", "path": str(path), "size": "77", "crop": "67"}
    given |= {"image_key": "mask", "validation_fraction": "0.5"}
    changes = [f"--config.data.{key}={value}" for key, value in given.items()]
    setup = build_setup(parse(runs.arguments(tmp_path, "run", *changes))[0])
    (hint,) = hints.slow_reading(setup)
    (command,) = re.findall("`python -m alexnet_jax.prepare (.*?)`", hint)
    asked = vars(prepare_command._parser().parse_args(shlex.split(command)))
    expected = {"source": "parquet", "input_path": str(path), "size": 77}
    expected |= {"image_key": "mask", "validation_fraction": 0.5}
    assert asked == {**expected, "output": Path("DIR")}
    assert hint.endswith("--config.data.path=DIR, without data.image_key")


def test_data_that_are_slow_to_read_at_random_are_to_be_prepared(tmp_path):
    forms.parquet(tmp_path / "hub")
    forms.tfrecord(tmp_path / "records")
    given = [
        *("--config.data.source=parquet", f"--config.data.path={tmp_path / 'hub'}"),
        *("--config.data.size=77", "--config.data.crop=67"),
    ]
    setup = build_setup(parse(runs.arguments(tmp_path, "run", *given))[0])
    (line,) = hints.slow_reading(setup)
    assert "prepare --source=parquet --input=" in line
    given[:2] = [
        "--config.data.source=tfds",
        f"--config.data.path={tmp_path / 'records'}",
    ]
    setup = build_setup(parse(runs.arguments(tmp_path, "run", *given))[0])
    assert hints.slow_reading(setup) == []


@pytest.mark.parametrize(
    ("examples", "settings", "said"),
    [
        (7, {"batch_size": 8}, ["batch_size=7 or less", "validate_steps=100"]),
        (8, {"batch_size": 8}, ["validate_steps=100"]),
        (8, {"batch_size": 8, "validate_steps": 1}, []),
        (9, {"batch_size": 8}, []),
    ],
)
def test_a_plan_that_nobody_wants_is_warned_of(examples, settings, said):
    plan = make_plan(examples=examples, steps=5, **settings)
    shown = hints.warnings(plan, {})
    assert len(shown) == len(said)
    for line, setting in zip(shown, said, strict=True):
        assert line.startswith("warning: ")
        assert setting in line


@pytest.mark.parametrize("key", ["warmup_epochs", "swa_epochs"])
def test_what_a_run_is_too_short_for_is_warned_of(key):
    plan = make_plan(examples=80, batch_size=8, epochs=2.0)
    for epoch in (None, 0.0, 1.0, 1.9):
        assert hints.warnings(plan, {key: epoch}) == []
    for epoch in (2.0, 5.0):
        (line,) = hints.warnings(plan, {key: epoch})
        assert line.startswith(
            f"warning: the run ends by schedule.{key}={epoch:g}, so that "
        )
