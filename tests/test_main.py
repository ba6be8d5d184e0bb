import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_jax import __main__, load_config, main, preset_config
from alexnet_jax.nn.layers import changed
from alexnet_jax.nn.presets import CODE2012, PRESETS
from alexnet_jax.runs.config import defaults, plain
from alexnet_jax.runtime import hugepages
from alexnet_jax.runtime.errors import InputError

import runs
import users


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
            "--config.data.path=photographs",
            "--config.train.batch_size=256",
        ]
    )
    assert workdir == Path("somewhere")
    apart, _ = main.parse(["--config", "quickstart", "--workdir", "x"])
    assert apart.data.source == "digits"
    assert config.data.path == "photographs"
    assert config.train.batch_size == 256
    assert config.schedule.kind == "plateau"
    assert load_config("imagenet").schedule.kind == "steps"


def test_a_config_is_found_by_name_and_by_path():
    by_path = load_config(str(ROOT / "configs" / "quickstart.py"))
    assert by_path.to_dict() == load_config("quickstart").to_dict()


def test_paths_of_a_run(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main.parse(["--config=quickstart", "--workdir=~/run"])[1] == tmp_path / "run"
    for wrong in (
        ("--config=quickstart", "--workdir=gs://bucket/run"),
        ("--config=gs://bucket/own.py", "--workdir=x"),
    ):
        assert "://bucket" in (shown := refused(*wrong)) and "is an address" in shown


def test_what_is_wrong_in_the_arguments_is_one_line(tmp_path):
    assert "--config is missing; usage" in refused("--workdir=x")
    assert "--workdir is missing; usage" in refused("--config=quickstart")
    empty = refused("--config=quickstart", "--workdir=")
    assert "--workdir is empty; usage" in empty
    unknown = refused("--config=nowhere", "--workdir=x")
    assert "nowhere does not exist" in unknown
    assert "quickstart" in unknown
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert "has no function get_config" in refused(
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
    assert "nosuchflag" in refused(*base, "--nosuchflag=1")
    assert "no variant 'old'" in refused("--config=imagenet:old", "--workdir=x")


def overridden(*arguments):
    config, _ = main.parse(["--config=quickstart", "--workdir=x", *arguments])
    return config


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (["--config.train.batch_size", "16"], ["--config.train.batch_size=16"]),
        (
            ["--config.schedule.learning_rate", "-1"],
            ["--config.schedule.learning_rate=-1"],
        ),
        (["--config.data.flip", "true"], ["--config.data.flip=True"]),
        (
            ["--config.data.flip", "--config.train.seed", "3"],
            ["--config.data.flip=True", "--config.train.seed=3"],
        ),
        (["--config.schedule.epochs=1.0,2.0"], ["--config.schedule.epochs=(1.0, 2.0)"]),
        (
            ["--config.train.freeze=conv1,conv2"],
            ["--config.train.freeze=('conv1', 'conv2')"],
        ),
        (["--config.train.freeze=conv1"], ["--config.train.freeze=('conv1',)"]),
        (
            ["--config.train.epochs=None", "--config.train.epochs=3"],
            ["--config.train.epochs=3"],
        ),
        (
            ["--config.schedule.layer_rates={'conv1': 0.1}"],
            ["--config.schedule.layer_rates.conv1=0.1"],
        ),
    ],
)
def test_ways_to_write_the_same_override(given, same):
    assert overridden(*given).to_dict() == overridden(*same).to_dict()


def test_none_empties_a_key_that_may_be_empty():
    for earlier in ([], ["--config.train.epochs=3"]):
        config = overridden(
            *earlier, "--config.train.epochs=None", "--config.data.path=None"
        )
        assert config.train.epochs is None
        assert config.data.path is None
    base = ("--config=quickstart", "--workdir=x")
    assert "must have a value" in refused(*base, "--config.train.batch_size=None")
    assert "epochs=none must be a number" in refused(
        *base, "--config.train.epochs=none"
    )


def test_a_layer_gets_a_rate_that_it_had_not():
    config, _ = main.parse(
        [
            *("--config=imagenet", "--workdir=x"),
            "--config.schedule.layer_rates.conv2=0",
            "--config.schedule.layer_rates.conv1=((3, 0.5),)",
            "--config.optimizer.layer_decays.fc8=0.1",
        ]
    )
    assert plain(config.schedule.layer_rates) == {"conv1": ((3, 0.5),), "conv2": 0}
    assert plain(config.optimizer.layer_decays) == {"fc8": 0.1}


def test_a_file_of_flags_stands_for_its_lines(tmp_path):
    file = tmp_path / "flags"
    file.write_text("# for this machine\n--config.train.batch_size=24\n")
    assert overridden(f"--flagfile={file}").train.batch_size == 24
    missing = refused("--config=quickstart", f"--flagfile={tmp_path / 'no'}")
    assert "--flagfile can't be read" in missing


@pytest.mark.parametrize(
    "name", ["quickstart", "imagenet:caffe", "folder", "cifar10", "finetune"]
)
def test_help_of_a_config_can_be_pasted_and_changes_nothing(name):
    shown = main.help_text([f"--config={name}", "--help"])
    lines = shown.splitlines()
    config = load_config(*name.split(":"))
    places = [
        n
        for n, line in enumerate(lines)
        if line.startswith("--config.") and "LAYER" not in line
    ]
    assert len(places) > 50
    pasted = []
    for place in places:
        head = lines[place]
        while "  (" not in head:
            place += 1
            head += f"  {lines[place].strip()}"
        pasted += shlex.split(head.rpartition("  (")[0])
        # The meaning, from a docstring.
        assert lines[place + 1].startswith("    ")
    again, _ = main.parse([f"--config={name}", "--workdir=x", *pasted])
    assert plain(again) == plain(config)


def test_help_names_the_configs_and_their_variants(tmp_path):
    shown = main.help_text(["--help"])
    for path in (ROOT / "configs").glob("*.py"):
        opening = f"  {path.stem:<11} {path.read_text().splitlines()[0][3:]}"
        assert " ".join(opening.split()) in " ".join(shown.split())
    of_config = " ".join(main.help_text(["--config=quickstart"]).split())
    assert ":VARIANT: code2012 (default), paper, conv6, no_norm," in of_config
    path = config_of(tmp_path, "config.train.steps = 3")
    assert "--config.train.steps=4  (int or None)" in main.help_text(
        [f"--config={path}", "--config.train.steps=4"]
    )
    with pytest.raises(InputError, match="nowhere does not exist"):
        main.help_text(["--config=nowhere", "--help"])


def test_one_value_of_one_row_is_set():
    config, _ = main.parse(
        [
            *("--config=quickstart:no_conv4", "--workdir=x"),
            "--config.model.layers.conv3.kernel_std=0.05",
            "--config.model.layers.conv1.then=('activation', 'pool')",
            "--config.model.layers.conv2.exchange=True",
            "--config.model.layers.fc5.width=64",
        ]
    )
    rows = plain(config.model.layers)
    expected = plain(PRESETS["no_conv4"]["layers"])
    expected["conv3"]["kernel_std"] = 0.05
    expected["conv1"]["then"] = ("activation", "pool")
    expected["conv2"]["exchange"] = True
    expected["fc5"]["width"] = 64
    assert rows == expected
    base = ("--config=quickstart", "--workdir=x")
    assert "layers.conv9.kernel is unknown" in refused(
        *base, "--config.model.layers.conv9.kernel=3"
    )
    assert "choose from bias, channels" in refused(
        *base, "--config.model.layers.conv3.kernle=3"
    )


def test_a_preset_changes_the_defaults_and_nothing_else():
    config = plain(preset_config("paper"))
    expected = defaults()
    expected["model"] |= {"layers": plain(PRESETS["paper"]["layers"])}
    expected["model"]["norm_alpha"] = 1e-4
    expected["optimizer"] |= {"bias_rate": 1.0, "bias_weight_decay": 0.0005}
    expected["schedule"]["bias_drops"] = 3
    # What is empty or a mapping is an empty one.
    expected["optimizer"]["layer_decays"] = expected["schedule"]["layer_rates"] = {}
    assert config == expected
    with pytest.raises(InputError, match="no preset 'vgg'; choose from code2012, "):
        preset_config("vgg")


def config_of(tmp_path, *lines):
    path = tmp_path / "own.py"
    body = "\n    ".join(lines)
    path.write_text(
        "from alexnet_jax import preset_config\n"
        "from alexnet_jax.nn.layers import changed, without\n"
        "from alexnet_jax.nn.presets import CODE2012\n\n"
        f"def get_config():\n    config = preset_config('code2012')\n    {body}\n"
        "    return config\n"
    )
    return path


def test_a_config_sets_rows_as_well_as_their_keys(tmp_path):
    rows = "config.model.layers = changed(CODE2012, conv3={'kernel_std': 0.05})"
    by_row = load_config(str(config_of(tmp_path, rows)))
    by_key = load_config(
        str(config_of(tmp_path, "config.model.layers.conv3.kernel_std = 0.05"))
    )
    expected = plain(changed(CODE2012, conv3={"kernel_std": 0.05}))
    assert plain(by_row.model.layers) == plain(by_key.model.layers) == expected
    path = config_of(tmp_path, "config.model.layers = without(CODE2012, 'conv4')")
    config, _ = main.parse(
        [f"--config={path}", "--workdir=x", "--config.model.layers.fc7.bias=2"]
    )
    assert list(config.model.layers) == [
        *("conv1", "conv2", "conv3", "conv4", "fc5", "fc6", "fc7")
    ]
    assert config.model.layers.fc7.bias == 2.0


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("config.model.channels = (8,) * 5", "model.layers.conv1.channels"),
        ("config.model.picture_padding = 2", "it is now model.image_padding"),
        ("config.model.update({'hidden': (8, 8)})", "model.layers.fc6.width"),
        ("config.train.stepz = 3", "config.train.stepz is unknown; choose from batch_"),
        ("config.trian = {}", "config.trian is unknown; sections are data, model"),
    ],
)
def test_keys_of_before_and_unknown_ones_are_one_line(tmp_path, line, shown):
    path = config_of(tmp_path, line)
    assert shown in refused(f"--config={path}", "--workdir=x")


@pytest.mark.parametrize(
    "line",
    ["from presets import preset_config", "import preset_values"],
)
def test_a_config_that_imports_a_module_of_before_gets_the_new_import(tmp_path, line):
    path = tmp_path / "old.py"
    path.write_text(f"{line}\n\ndef get_config():\n    return None\n")
    shown = refused(f"--config={path}", "--workdir=x")
    assert "write `from alexnet_jax import preset_config`" in shown


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("--config.data.flip=yes", "--config.data.flip=yes must be True or False"),
        ("--config.model.layers.conv9.channels=3", "choose from conv1, conv2, conv3"),
        ("--config.trian.steps=3", "is unknown; sections are "),
    ],
)
def test_what_an_override_may_be_is_said(override, shown):
    assert shown in refused("--config=quickstart", "--workdir=x", override)


def test_an_override_of_before_says_the_new_key():
    base = ("--config=quickstart", "--workdir=x")
    assert "it is now model.layers.fc6.width" in refused(
        *base, "--config.model.hidden=(16,16)"
    )
    assert "now model.standardize" in refused(*base, "--config.model.whiten=True")


def test_a_config_is_executed_once(tmp_path):
    counter = tmp_path / "executed"
    line = f"with open({str(counter)!r}, 'a') as file: file.write('x')"
    path = config_of(tmp_path, line)
    main.parse([f"--config={path}", "--workdir=x", "--config.train.steps=3"])
    assert counter.read_text() == "x"


def test_configs_beside_each_other_do_not_mix(tmp_path):
    for name, steps in (("a", 3), ("b", 5)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "shared.py").write_text(f"STEPS = {steps}\n")
        config_of(folder, "import shared", "config.train.steps = shared.STEPS")
        assert load_config(str(folder / "own.py")).train.steps == steps


def test_a_config_without_variants_has_none():
    assert "has no variants" in refused("--config=folder:paper", "--workdir=x")


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
            "--config.model.layers.conv2.kernel=4",
            "conv2.kernel=4 must be odd where model.layers.conv2.stride is 1",
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
        ("--config.train.freeze=conv9", "train.freeze=conv9 is no layer; choose from"),
        ("--config.optimizer.layer_decays.fc8=-1", "layer_decays.fc8=-1 must not be"),
        (
            "--config.schedule.layer_rates.fc9=0",
            "set for fc9, but the layers are conv1",
        ),
        ("--config.eval.views=3", "eval.views=3 must be 1 or 10"),
    ],
)
def test_what_is_wrong_in_the_values_is_one_line(tmp_path, override, shown):
    with pytest.raises(InputError) as caught:
        runs.run(tmp_path, "run", override)
    assert shown in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_path_of_a_work_directory_is_utf_8(tmp_path):
    """Orbax saves nothing under another."""
    with pytest.raises(InputError, match=r"r\\xe9 is not UTF-8.* choose another"):
        runs.run(tmp_path, os.fsdecode(b"r\xe9"))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny_config.py"]


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
        env=users.environment(),
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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if often else pytest.mark.extended)
        for name in __main__.COMMANDS
        for often in [name in ("prepare", "verify")]
    ],
)
def test_a_command_and_its_module_help_alike(name):
    helped = command(f"alexnet_jax.{__main__.COMMANDS[name][0]}", "--help")
    assert helped.returncode == 0
    assert "usage" in helped.stdout
    assert command("alexnet_jax", name, "--help").stdout == helped.stdout


@pytest.fixture
def restarts(monkeypatch):
    """Counts restarts with huge pages, of which this process can have none."""
    # Set first, so that what `cpp_log` sets is taken back afterwards.
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    counted = []
    monkeypatch.setattr(hugepages, "use", lambda: counted.append(True))
    return counted


@pytest.mark.usefixtures("restarts")
def test_one_command_for_all(monkeypatch, capsys, tmp_path):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["alexnet", *arguments])
        __main__.main()

    # Wide enough for a line each.
    monkeypatch.setenv("COLUMNS", "200")
    run()
    listed = capsys.readouterr().out
    for name, (module, purpose) in __main__.COMMANDS.items():
        assert re.search(
            rf"  {name} +alexnet_jax\.{module} +{re.escape(purpose)}", listed
        )
    with pytest.raises(InputError, match="nothing holds no prepared data set"):
        run("verify", f"--path={tmp_path / 'nothing'}")
    with pytest.raises(InputError, match="no command 'trian'; choose from train, "):
        run("trian")
    run("train", "--config=quickstart", "--help")
    assert "--config.train.batch_size=32" in capsys.readouterr().out


@pytest.mark.parametrize("name", [None, *__main__.COMMANDS])
def test_help_fits_a_terminal_of_80_columns(name, monkeypatch, capsys, restarts):
    def lines(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["alexnet", *([name] if name else []), "-h"])
        with contextlib.suppress(SystemExit):
            __main__.main()
        return capsys.readouterr().out.splitlines()

    assert max(map(len, lines(80))) <= 80
    # Examples, which are indented, are not broken.
    prose = [line for line in lines(40) if not name or line[:1].isalpha()]
    assert max(map(len, prose)) <= 40 + 8
    # What trains or evaluates, each of the two times.
    assert len(restarts) == 2 * (name in ("train", "evaluate", "features"))
