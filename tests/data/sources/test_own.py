import importlib
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax import evaluate, features, figures, prepare
from alexnet_jax.data.sources import registry
from alexnet_jax.data.sources.arrays import save_arrays
from alexnet_jax.runtime.errors import InputError

import forms
import runs


README = Path(registry.__file__).with_name("README.md")
NUMBERS = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes the current folder one with a module of this text, under a new name."""

    def make(text):
        name = f"mine{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    return make


def opened(source, path=None):
    return registry.open_dataset(
        source=source, path=path, size=forms.SIZE, validation_fraction=0.1
    )


def example():
    """The source of the README."""
    (text,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    assert len(text.splitlines()) <= 16
    return text


def write_listed(folder):
    """What the README's source reads: the photos of two classes."""
    lines = []
    for split, members in forms.photos().items():
        for photo in members:
            label = forms.WNIDS.index(photo.wnid)
            if label > 1:
                continue
            path = folder / photo.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo.data)
            lines.append(f"{split},{photo.name},{label}\n")
    (folder / "images.csv").write_text("".join(lines))


def test_the_source_of_the_readme_is_prepared_as_any_other(tmp_path, module, capsys):
    write_listed(tmp_path / "list")
    source = f"{module(example())}:listed"
    dataset = opened(source, str(tmp_path / "list"))
    assert dataset.class_names == ("cat", "dog")
    size = f"--size={forms.SIZE}"
    given = [f"--source={source}", f"--input={tmp_path / 'list'}", size]
    prepare.main([*given, "--output=out", "--workers=1"])
    result = json.loads(capsys.readouterr().out)
    assert (result["train"], result["validation"]) == (16, 8)
    found = registry.open_dataset(
        source="prepared", path="out", size=1, validation_fraction=0.1
    )
    for split, members in forms.photos().items():
        names = [p.name for p in members if forms.WNIDS.index(p.wnid) < 2]
        made = found.splits[split]
        assert [made.name(n) for n in range(len(made))] == names


ARRAYS = """
import numpy as np
from alexnet_jax.data.sources.arrays import array_dataset

def noise(path, size, validation_fraction):
    rng = np.random.default_rng(0)
    counts = {"train": 20, "validation": 6}
    return array_dataset(
        {s: rng.integers(0, 256, (n, size, size, 3), "u1") for s, n in counts.items()},
        {s: np.arange(n) % 3 for s, n in counts.items()},
        ["zero", "one", "two"],
    )
"""


def test_pixels_are_prepared_as_they_are(tmp_path, module, capsys):
    """Of a function that needs no path, and of the same arrays in a file."""
    source = f"{module(ARRAYS)}:noise"
    dataset = opened(source)
    save_arrays(tmp_path / "noise.npz", dataset)
    size = f"--size={forms.SIZE}"
    same = ["--encoding=raw", size]
    prepare.main([f"--source={source}", "--output=own", *same])
    prepare.main(["--source=arrays", "--input=noise.npz", "--output=file", *same])
    capsys.readouterr()
    manifests = []
    for name in ("own", "file"):
        content = json.loads((tmp_path / name / "dataset.json").read_text())
        manifests.append({k: v for k, v in content.items() if k != "source"})
        found = registry.open_dataset(
            source="prepared", path=name, size=1, validation_fraction=0.1
        )
        for split, expected in dataset.splits.items():
            for index in range(len(expected)):
                made = found.splits[split][index]
                np.testing.assert_array_equal(made["image"], expected[index]["image"])
                assert made["label"] == expected[index]["label"]
    assert manifests[0] == manifests[1]
    with pytest.raises(InputError, match="has images of 16 pixels .* give --size=16"):
        prepare.main(["--source=arrays", "--input=noise.npz", "--output=x"])
    with pytest.raises(InputError, match="--source=arrays needs --input"):
        prepare.main(["--source=arrays", "--output=x", size])


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        ("", "f", "has no function f"),
        ("f = 3", "f", "has no function f"),
        ("", "", "has no function .no name."),
        ("import nowhere_at_all", "f", "ModuleNotFoundError: No module named 'nowher"),
        ("1 / 0", "f", r"ZeroDivisionError: division by zero .*mine\d+.py, line 1"),
        ("def f(*given):\n  return {}['a']", "f", r"KeyError: 'a' .*\.py, line 2\)$"),
        (
            "def f(*given): return 3",
            "f",
            "must give a Dataset with the splits train and",
        ),
        ("def f(path): return 3", "f", "TypeError: f.. takes 1 positional"),
    ],
)
def test_what_is_wrong_with_a_module_is_one_line(module, text, function, message):
    name = module(text)
    with pytest.raises(InputError, match=message) as caught:
        opened(f"{name}:{function}")
    assert str(caught.value).startswith(f"data.source={name}:{function}: ")
    assert "\n" not in str(caught.value)


def test_a_module_that_is_nowhere_says_where_it_is_looked_for(module):
    with pytest.raises(
        InputError, match="there is no module nowhere; give the command"
    ):
        opened("nowhere:f")


@pytest.mark.extended
def test_a_source_of_one_s_own_works_in_every_command(tmp_path, module, capsys):
    """Training, evaluation, the report, and features, of the README's source."""
    pytest.importorskip("matplotlib")
    write_listed(tmp_path / "list")
    source = f"{module(example())}:listed"
    settings = [
        f"--config.data.source={source}",
        f"--config.data.path={tmp_path / 'list'}",
        *("--config.data.size=77", "--config.data.crop=67"),
        *("--config.train.steps=3", "--config.train.batch_size=4"),
        "--config.eval.batch_size=8",
    ]
    workdir = runs.run(tmp_path, "run", *settings)
    capsys.readouterr()
    evaluate.main([f"--workdir={workdir}"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["examples"] == 8
    figures.main([f"--workdir={workdir}"])
    assert "Confusions" in (workdir / "report.html").read_text()
    output = tmp_path / "fc7.npy"
    given = [f"--workdir={workdir}", "--layer=fc7", f"--output={output}"]
    given += ["--batch_size=8"]
    features.main([*given, f"--source={source}", f"--input={tmp_path / 'list'}"])
    assert len(np.load(output)) == 24
    names = (tmp_path / "fc7.csv").read_text().splitlines()
    assert names[1].startswith(forms.photos()["train"][0].name)


LABELLED = """
import numpy as np
from alexnet_jax.data.dataset import Dataset


class Grey:
    def __init__(self, *labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = np.full((67, 67, 3), index, np.uint8)
        return {"image": image, "label": self.labels[index]}

    def label(self, index):
        return self.labels[index]

    def name(self, index):
        return f"grey{index}"

    where = name


def wrong(path, size, validation_fraction):
    splits = {"train": Grey(0, 1, LABEL), "validation": Grey(0, 1)}
    return Dataset(splits, ("a", "b"), ("a", "b"), 67, path or "grey")
"""


@pytest.mark.parametrize("label", [-1, 2])
def test_a_class_that_is_none_is_refused_before_it_is_learned(
    tmp_path, module, label, capsys
):
    source = f"{module(LABELLED.replace('LABEL', str(label)))}:wrong"
    said = f"grey2 has the class {label}, and the 2 classes are 0 to 1"
    with pytest.raises(InputError, match=said):
        prepare.main([f"--source={source}", "--size=67", "--output=out"])
    with pytest.raises(InputError, match=said):
        runs.run(
            tmp_path,
            "run",
            f"--config.data.source={source}",
            *("--config.data.size=67", "--config.data.crop=67"),
        )


def test_a_function_gets_the_address_or_path_that_was_given(module, capsys):
    text = LABELLED.replace("LABEL", "0").replace('path or "grey"', "path")
    source = f"{module(text)}:wrong"
    home = str(Path.home() / "x")
    for given, expected in (("gs://bucket/x", "gs://bucket/x"), ("~/x", home)):
        assert opened(source, given).fingerprint == expected
        output = f"out{len(expected)}"
        flags = ["--size=67", f"--input={given}", f"--output={output}"]
        prepare.main([f"--source={source}", *flags])
        result = json.loads(capsys.readouterr().out)
        assert (result["train"], result["validation"]) == (3, 2)
