import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_jax import main
from alexnet_jax.runtime.errors import InputError

import runs


ROOT = Path(__file__).parents[1]


def refused(*arguments):
    with pytest.raises(InputError) as caught:
        main.parse(arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_overrides_and_variants():
    config, workdir = main.parse(
        [
            "--config=imagenet:paper",
            "--workdir=somewhere",
            "--config.data.path=pictures",
            "--config.train.batch_size=256",
        ]
    )
    assert workdir == Path("somewhere")
    apart, _ = main.parse(["--config", "quickstart", "--workdir", "x"])
    assert apart.data.source == "digits"
    assert config.data.path == "pictures"
    assert config.train.batch_size == 256
    assert config.schedule.kind == "plateau"
    assert main.load_config("imagenet").schedule.kind == "steps"


def test_a_config_is_found_by_name_and_by_path():
    by_path = main.load_config(str(ROOT / "configs" / "quickstart.py"))
    assert by_path.to_dict() == main.load_config("quickstart").to_dict()


def test_what_is_wrong_in_the_arguments_is_one_line(tmp_path):
    assert "--config is missing; usage" in refused("--workdir=x")
    assert "--workdir is missing; usage" in refused("--config=quickstart")
    empty = refused("--config=quickstart", "--workdir=")
    assert "--workdir is empty; usage" in empty
    unknown = refused("--config=nowhere", "--workdir=x")
    assert "nowhere does not exist" in unknown
    assert "quickstart" in unknown
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert "no attribute 'get_config'" in refused(
        f"--config={tmp_path / 'empty.py'}", "--workdir=x"
    )
    (tmp_path / "wrong.py").write_text("def get_config(:\n")
    assert "wrong.py" in refused(f"--config={tmp_path / 'wrong.py'}", "--workdir=x")
    (tmp_path / "raises.py").write_text("def get_config():\n    return 1 / 0\n")
    raises = refused(f"--config={tmp_path / 'raises.py'}", "--workdir=x")
    assert "division by zero" in raises
    base = ("--config=quickstart", "--workdir=x")
    assert "model.towerz" in refused(*base, "--config.model.towerz=3")
    assert "batch_size" in refused(*base, "--config.train.batch_size=many")
    assert "batch_size" in refused(*base, "--config.train.batch_size=1.5")
    assert "stray argument extra" in refused(*base, "extra")
    assert "set it in a config file of your own" in refused(
        *base, "--config.schedule.layer_rates.conv1=0.1"
    )
    assert "nosuchflag" in refused(*base, "--nosuchflag=1")
    assert "no variant 'old'" in refused("--config=imagenet:old", "--workdir=x")


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("--config.train.batch_size=0", "train.batch_size=0 must be at least 1"),
        ("--config.train.seed=-1", "train.seed=-1 must lie from 0 to below 4294967296"),
        ("--config.model.towers=0", "model.towers=0 must be at least 1"),
        ("--config.model.norm_size=4", "model.norm_size=4 must be odd"),
        ("--config.model.norm_k=0", "model.norm_k=0.0 must be finite and above 0"),
        ("--config.model.norm_beta=-1", "model.norm_beta=-1.0 must not be negative"),
        ("--config.train.epochs=inf", "train.epochs=inf must be finite"),
        ("--config.train.epochs=nan", "train.epochs=nan must be finite"),
        ("--config.train.epochs=-1", "train.epochs=-1.0 must not be negative"),
        ("--config.train.seed=4294967296", "train.seed=4294967296 must lie from 0"),
        ("--config.data.timeout=inf", "data.timeout=inf must be above 0 and finite"),
        ("--config.data.size=5000", "data.size=5000 must lie from 1 to below 4097"),
        (
            "--config.model.kernel_sizes=(11,4,3,3,3)",
            "has kernels of 4; where model.strides is 1 they must be odd",
        ),
        (
            "--config.schedule.epochs=(1e999,)",
            "a number of schedule.epochs=inf must be finite",
        ),
        ("--config.schedule.bias_drops=-1", "bias_drops=-1 must not be negative"),
        (
            "--config.data.validation_fraction=0.0001",
            "a split of the 1797 digits empty",
        ),
        ("--config.mesh.tower=3", "does not divide the network's 2 towers; use 1 or 2"),
        ("--config.mesh.data=4", "virtual_cpu_devices="),
        ("--config.data.crop=60", "the nearest sizes that do: 64"),
        ("--config.eval.views=3", "eval.views=3 must be 1 or 10"),
    ],
)
def test_what_is_wrong_in_the_values_is_one_line(tmp_path, override, shown):
    with pytest.raises(InputError) as caught:
        runs.run(tmp_path, "run", override)
    assert shown in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_batch_that_does_not_divide_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match="batch_size=9 .* axis of 2; use 8 or 10"):
        runs.run(
            tmp_path,
            "run",
            "--config.mesh.data=2",
            "--config.mesh.tower=1",
            "--config.train.batch_size=9",
        )


def command(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("alexnet_jax.main", "--config=nowhere", "--workdir=x"),
        ("alexnet_jax.main", "--config=imagenet", "--workdir={tmp}/run"),
        ("alexnet_jax.evaluate", "--workdir={tmp}/nothing"),
        ("alexnet_jax.evaluate", "--workdir={tmp}", "stray"),
        (
            *("alexnet_jax.prepare", "--source=folder"),
            *("--input={tmp}/nothing", "--output={tmp}/out"),
        ),
        ("alexnet_jax.verify", "--path={tmp}/nothing"),
    ],
)
def test_bad_input_ends_with_status_2_and_no_traceback(tmp_path, arguments):
    done = command(*(part.format(tmp=tmp_path) for part in arguments))
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_every_command_is_listed_and_helps():
    listed = command("alexnet_jax")
    assert listed.returncode == 0
    for name in ("main", "evaluate", "prepare", "verify"):
        assert f"alexnet_jax.{name}" in listed.stdout
        helped = command(f"alexnet_jax.{name}", "--help")
        assert helped.returncode == 0
        assert "usage" in helped.stdout
