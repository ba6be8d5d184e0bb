"""The same bits on a GPU: what the steps are compiled with, as far as a CPU shows."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from alexnet_jax.runs import determinism
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import compilation, optimizer, step
from alexnet_jax.training.plan import make_plan
from alexnet_jax.training.schedule import make_schedule

from networks import mesh_of, tiny


KIND = "NVIDIA H100 80GB HBM3"


def on_gpu(deterministic: str, folder: Path | None) -> determinism.Determinism:
    return determinism.choose(deterministic, platform="gpu", kind=KIND, folder=folder)


def test_a_cpu_needs_no_option(tmp_path):
    for asked in ("auto", "true", "false"):
        chosen = determinism.of_run(asked, mesh_of(1, 1), tmp_path)
        assert chosen.noted() == {"compiler_options": "", "same_bits": True}
        assert not chosen.options and chosen.autotuning is None


def test_on_a_gpu_bits_are_promised_where_they_are_asked_for(tmp_path, capsys):
    for asked in ("auto", "false"):
        chosen = on_gpu(asked, tmp_path)
        assert chosen.noted() == {"compiler_options": "", "same_bits": False}
        assert not chosen.options
    chosen = on_gpu("true", tmp_path)
    assert chosen.noted() == {
        "compiler_options": "xla_gpu_exclude_nondeterministic_ops",
        "same_bits": True,
    }
    # What is chosen by timing may differ in the next start, unless it is kept.
    assert not on_gpu("true", None).same_bits
    assert capsys.readouterr().err == ""


def test_what_was_chosen_is_kept_whole_and_taken_by_the_next_start(tmp_path):
    folder = tmp_path / "autotuning"
    first = on_gpu("true", folder)
    assert first.autotuning is not None
    assert determinism.LOAD not in first.options
    written = Path(str(first.options[determinism.DUMP]))
    assert not written.is_relative_to(tmp_path)
    first.autotuning.keep()
    assert not folder.exists()
    for content in ("results { }", "results { } results { }"):
        written.write_text(content)
        first.autotuning.keep()
        (kept,) = folder.iterdir()
        assert kept.read_text() == content
    assert kept.name == "NVIDIA_H100_80GB_HBM3.pbtxt"
    second = on_gpu("true", folder)
    assert second.options[determinism.LOAD] == str(kept)
    # An empty file would be none, and another kind of device has its own.
    written.write_text("")
    first.autotuning.keep()
    assert kept.read_text() == content
    other = determinism.choose("true", platform="gpu", kind="L4", folder=folder)
    assert determinism.LOAD not in other.options


def test_an_option_that_xla_does_not_know_is_a_line(capsys):
    options = {determinism.EXCLUDE: True, "xla_of_another_version": True}
    assert compilation.known(options) == {determinism.EXCLUDE: True}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: this XLA does not know xla_of_another_version (")


@pytest.mark.parametrize(
    "name", ["evaluate", pytest.param("train", marks=pytest.mark.slow)]
)
def test_the_options_reach_the_steps(name):
    """An unknown one, which XLA refuses by name, shows that they are its own."""
    model, mesh = tiny(), mesh_of(1, 1)
    schedule = make_schedule(steps_per_epoch=100, learning_rate=1e-3)
    sgd = optimizer.momentum_sgd(schedule)
    state = step.abstract_state(model, sgd, mesh, 67)
    mean = jax.ShapeDtypeStruct((67, 67, 3), np.float32)
    refused = {"xla_of_another_version": True}
    train: Any = step.make_train_step(model, sgd, schedule, mesh, 0, refused)
    evaluate: Any = step.make_eval_step(
        model, mesh, crop=67, views=1, compiler_options=refused
    )
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def array(shape, kind):
        return jax.ShapeDtypeStruct((2, *shape), kind, sharding=place)

    batch = {
        "image": array((67, 67, 3), np.uint8),
        "label": array((), np.int32),
        "colour_shift": array((3,), np.float32),
    }
    whole = {
        "image": array((70, 70, 3), np.uint8),
        "label": array((), np.int32),
        "mask": array((), np.bool_),
    }
    if name == "train":
        lowered = train.lower(state, batch, mean)
    else:
        lowered = evaluate.lower(state.params, whole, mean)
    with pytest.raises(Exception, match="xla_of_another_version"):
        lowered.compile()


def test_a_resume_may_change_it_and_says_what_that_changes(tmp_path, capsys):
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "10").mkdir(parents=True)
    config = {"data": {"source": "digits"}, "train": {"deterministic": "false"}}
    changed = {**config, "train": {"deterministic": "true"}}
    for settings, chosen in ((config, on_gpu("false", workdir)), (changed, None)):
        workdirs.check_run(workdir, settings)
        chosen = chosen or on_gpu("true", workdir)
        workdirs.start_run(workdir, settings, {"determinism": chosen.noted()})
    (line,) = capsys.readouterr().err.splitlines()
    assert "compiler_options '' -> 'xla_gpu_exclude_nondeterministic_ops'" in line
    assert "same_bits False -> True" in line
    run = json.loads((workdir / "run.json").read_text())
    run["starts"][-1]["numerics"] |= {"device": "gpu L4", "driver": "550.54"}
    (workdir / "run.json").write_text(json.dumps(run))
    workdirs.start_run(workdir, changed, {"determinism": chosen.noted()})
    (line,) = capsys.readouterr().err.splitlines()
    assert "device 'gpu L4' -> " in line and "driver '550.54' -> " in line


@pytest.mark.parametrize("given", ["auto", "True", True, "false"])
def test_the_key_takes_text_and_python_values(given):
    plan = make_plan(examples=10, steps=1, deterministic=given)
    assert plan.deterministic == str(given).lower()


def test_an_unknown_value_is_named():
    with pytest.raises(InputError, match="train.deterministic='yes' unknown; choose"):
        make_plan(examples=10, steps=1, deterministic="yes")
