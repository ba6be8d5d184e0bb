"""The report of a run, and what its numbers say."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import figures
from alexnet_jax.inference import evaluations, inspection
from alexnet_jax.inference.ensemble import evaluate
from alexnet_jax.inference.trained import open_trained
from alexnet_jax.reporting import html, report, sections
from alexnet_jax.runs import metrics_file
from alexnet_jax.runtime.errors import InputError

import runs


pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    few = "--config.data.validation_fraction=0.5"
    return runs.run(tmp_path_factory.mktemp("figures"), "run", few)


def test_a_report_is_one_file_that_needs_no_network(workdir, capsys):
    figures.main([f"--workdir={workdir}"])
    result = json.loads(capsys.readouterr().out)
    page = (workdir / "report.html").read_text()
    assert result == {"report": str(workdir / "report.html")}
    # Every address lies in the page itself; those of XML's names are no addresses.
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    anchors = {link[1:] for link in links if link.startswith("#")}
    names = re.findall(r'id="([^"]*)"', page)
    assert anchors <= set(names)
    assert len(names) == len(set(names))
    assert "url(http" not in page
    assert "<script" not in page
    assert "Confusions" in page
    assert "lost to restarts" in page and "a step, median" in page
    assert "Loss spikes" not in page
    for name in ("training", "throughput", "predictions", "confusion", "kernels"):
        with Image.open(workdir / "figures" / f"{name}.png") as image:
            assert image.width > 100


def test_names_of_any_kind_and_a_rate_of_zero(workdir, tmp_path, monkeypatch, capsys):
    # What Matplotlib warns of would be an error here.
    still = tmp_path / "run"
    shutil.copytree(workdir, still)
    lines = []
    for text in (still / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        nothing = {name: 0.0 for name in ("loss", "learning_rate") if name in line}
        lines.append(json.dumps({**line, **nothing}) + "\n")
    lines[0] = lines[0].replace('{"step"', '{"loss_spike": 3.25, "step"')
    (still / "metrics.jsonl").write_text("".join(lines))
    insight = inspection.look(open_trained(still, "best"))
    names = ('<b>&"$x$', "猫", "собака", "\U00010348", *insight.class_names[4:])
    other = type(insight)(**{**vars(insight), "class_names": names})
    monkeypatch.setattr(inspection, "look", lambda *_: other)
    page = report.write_report(still).read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "猫" in page
    assert "собака" in page
    assert "Loss spikes" in page and "3.2" in page
    assert capsys.readouterr().err.count("note: no font here has all characters") == 1


def test_errors_by_class_are_those_of_the_evaluation(workdir, tmp_path):
    insight = inspection.look(open_trained(workdir, "best"))
    file = tmp_path / "predictions.npz"
    result = evaluate([workdir], predictions=file)
    with np.load(file) as predictions:
        np.testing.assert_array_equal(insight.labels, predictions["label"])
        np.testing.assert_allclose(
            insight.probabilities, predictions["mean_probabilities"], atol=1e-5
        )
    counts = insight.confusion()
    assert counts.sum() == len(insight.labels) == insight.total
    error = 1 - counts.trace() / counts.sum()
    assert error == pytest.approx(result["top1_error"])
    near = insight.nearest(0, 3)
    distances = [np.linalg.norm(h - insight.hidden[0]) for h in insight.hidden]
    assert near.tolist() == np.argsort(distances, kind="stable")[1:4].tolist()


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_missing_package_is_one_line(workdir, monkeypatch, missing):
    # As if it were not installed: Python refuses to import what is None here.
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        InputError, match=rf"needs .* {missing}; `pip install -e .*\[figures\]"
    ):
        figures.main([f"--workdir={workdir}"])


def test_a_comparison(workdir, tmp_path):
    other = runs.run(tmp_path, "other", "--config.train.steps=3")
    path = report.write_comparison([workdir, other])
    page = path.read_text()
    assert path == workdir / "comparison.html"
    assert "train.steps" in page
    assert "model.layers" not in page


@pytest.mark.slow
def test_a_run_without_curves_is_drawn_too(workdir, tmp_path):
    """Imported weights have none; what was measured of them is shown."""
    imported = shutil.copytree(workdir, tmp_path / "imported")
    (imported / "metrics.jsonl").unlink()
    evaluations.keep(imported, evaluate([imported]))
    page = report.write_report(imported).read_text()
    for title in ("Evaluations", "Kernels of the first layer", "Predictions"):
        assert f">{title}</h2>" in page
    for title in ("Result", "Training", "Speed"):
        assert f">{title}</h2>" not in page
    with pytest.raises(InputError, match="has no metrics.jsonl, as imported weights"):
        report.write_comparison([workdir, imported])


def test_data_of_other_classes_are_not_drawn(workdir, tmp_path, capsys):
    """Their labels would say nothing about this network."""
    other = shutil.copytree(workdir, tmp_path / "other")
    data = json.loads((other / "data.json").read_text())
    data["class_names"][0] = "zero"
    (other / "data.json").write_text(json.dumps(data))
    page = report.write_report(other).read_text()
    assert "no predictions in the report" in capsys.readouterr().err
    assert "Confusions" not in page


def test_long_runs_are_thinned_and_a_line_in_the_making_is_left_out(workdir, tmp_path):
    line = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    metrics = tmp_path / "metrics.jsonl"
    with metrics.open("w") as file:
        for step in range(1, 100_001):
            file.write(json.dumps({**line, "step": step, "epoch": step / 1000}) + "\n")
        file.write('{"step": 100001, "sp')
    run = metrics_file.read_curves(tmp_path)
    x, y = metrics_file.thinned(
        run.splits["train"]["epoch"], run.splits["train"]["loss"]
    )
    assert len(x) == len(y) == metrics_file.POINTS
    assert x[0] < x[-1] <= 100
    assert run.rate_drops() == []


def test_rate_drops_and_the_best():
    train = {"epoch": np.arange(5.0), "learning_rate": np.array([1, 1, 0.1, 0.1, 0.01])}
    errors = np.array([0.5, 0.2, 0.2, 0.3])
    lines = {"step": np.arange(4), "top1_error": errors}
    run = metrics_file.Curves("run", {"train": train, "validation": lines})
    assert run.rate_drops() == [2.0, 4.0]
    assert run.best() == {"step": 2, "top1_error": 0.2}
    assert run.last("validation", "top1_error") == 0.3


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(InputError, match="is not a work directory"):
        figures.main([f"--workdir={tmp_path}"])
    (tmp_path / "metrics.jsonl").write_text("no json\n{}\n")
    with pytest.raises(InputError, match="line 1, is damaged"):
        figures.main([f"--workdir={tmp_path}"])
    line = '{"step": 1, "split": "train", "loss": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_text(line + line.replace("loss", "lost") + line)
    with pytest.raises(InputError, match="line 2, is damaged"):
        figures.main([f"--workdir={tmp_path}"])


def test_five_classes_or_fewer_have_no_top5_error():
    line = {"step": 1, "epoch": 1.0, "loss": -0.0, "images_per_second": 10.0}
    errors = {"step": 1, "top1_error": 0.5, "top5_error": 0.25}
    splits = {"train": line, "validation": errors}
    arrays = {
        split: {name: np.array([value]) for name, value in values.items()}
        for split, values in splits.items()
    }
    run = metrics_file.Curves("run", arrays)
    for classes in (2, 5, 6):
        (numbers,) = sections.result(run, classes).parts
        assert isinstance(numbers, html.Numbers)
        names = [name for name, _ in numbers.pairs]
        assert ("top-5 error there" in names) == (classes > 5)
        assert ("training loss", "0.000") in numbers.pairs
