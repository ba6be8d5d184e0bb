"""The report of a run, and what its numbers say."""

import dataclasses
import json
import re
import shutil
import sys
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from alexnet_jax import figures, main
from alexnet_jax.analysis import embedding
from alexnet_jax.inference import evaluations, inspection
from alexnet_jax.inference.ensemble import evaluate
from alexnet_jax.inference.inspection import Insight
from alexnet_jax.inference.trained import open_trained
from alexnet_jax.reporting import (
    charts,
    extras,
    html,
    kernel_sheet,
    report,
    sections,
)
from alexnet_jax.runs import metrics_file
from alexnet_jax.runtime.errors import Failure, InputError

import runs


pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def report_run(tmp_path_factory):
    few = "--config.data.validation_fraction=0.5"
    return runs.run(tmp_path_factory.mktemp("figures"), "run", few)


@pytest.mark.slow
def test_a_report_is_one_file_that_needs_no_network(report_run, capsys):
    figures.main([f"--workdir={report_run}"])
    result = json.loads(capsys.readouterr().out)
    page = (report_run / "report.html").read_text()
    assert result == {"report": str(report_run / "report.html")}
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
    # How what is shown was chosen, and what it is to be compared with.
    for text in ("chance level", "validation images", "Chosen by rule from all"):
        assert text in page
    assert "chosen on the images that it is measured on" in page
    assert "Training batches are seen with dropout and in random crops." in page
    for tower in (0, 1):
        assert f"<figcaption>tower {tower}</figcaption>" in page
    # Each chart is there once more for a narrow window.
    assert page.count('class="only-narrow"') == 4
    for name in ("training", "throughput", "predictions", "confusion", "kernels"):
        with Image.open(report_run / "figures" / f"{name}.png") as image:
            assert image.width > 100


@pytest.mark.extended
def test_names_of_any_kind_and_a_rate_of_zero(
    report_run, tmp_path, monkeypatch, capsys
):
    # What Matplotlib warns of would be an error here.
    still = tmp_path / "run"
    shutil.copytree(report_run, still)
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


@pytest.mark.slow
def test_errors_by_class_are_those_of_the_evaluation(report_run, tmp_path):
    insight = inspection.look(open_trained(report_run, "best"))
    file = tmp_path / "predictions.npz"
    result = evaluate([report_run], predictions=file)
    with np.load(file) as predictions:
        np.testing.assert_array_equal(insight.labels, predictions["label"])
        np.testing.assert_allclose(
            insight.probabilities, predictions["mean_probabilities"], atol=1e-5
        )
    counts = insight.confusion()
    assert counts.sum() == len(insight.labels) == insight.total
    np.testing.assert_array_equal(insight.every_label, insight.labels)
    np.testing.assert_array_equal(insight.every_prediction, insight.predicted)
    largest = np.unique(insight.labels, return_counts=True)[1].max()
    assert insight.chance_level == pytest.approx(1 - largest / insight.total)
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


@pytest.mark.slow
def test_a_comparison(report_run, tmp_path):
    other = runs.run(tmp_path, "run", "--config.train.steps=3")
    path = report.write_comparison([report_run, other])
    page = path.read_text()
    # Of runs of one name, with the folder that they are in.
    for run in (report_run, other):
        assert f"<td>{run.parent.name}/run</td>" in page
    assert path == report_run / "comparison.html"
    assert "train.steps" in page
    assert "model.layers" not in page


@pytest.mark.slow
def test_a_training_draws_its_report_except_with_no_report(
    report_run, monkeypatch, capsys
):
    """A finished run, which has nothing to do but that."""
    few = "--config.data.validation_fraction=0.5"
    page = report_run / "report.html"
    page.unlink(missing_ok=True)
    for more, drawn in (("--no-report",), False), ((), True):
        arguments = runs.arguments(report_run.parent, report_run.name, few, *more)
        monkeypatch.setattr(sys, "argv", ["main", *arguments])
        main.main()
        assert json.loads(capsys.readouterr().out)["step"] == 20
        assert page.exists() == drawn


@pytest.mark.extended
def test_a_run_without_curves_is_drawn_too(report_run, tmp_path):
    """Imported weights have none; what was measured of them is shown."""
    imported = shutil.copytree(report_run, tmp_path / "imported")
    (imported / "metrics.jsonl").unlink()
    evaluations.keep(imported, evaluate([imported]))
    page = report.write_report(imported).read_text()
    for title in ("Evaluations", "Kernels of the first layer", "Predictions"):
        assert f">{title}</h2>" in page
    for title in ("Result", "Training", "Speed"):
        assert f">{title}</h2>" not in page
    with pytest.raises(InputError, match="has no metrics.jsonl, as imported weights"):
        report.write_comparison([report_run, imported])


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


def test_all_images_and_all_classes_are_counted_where_few_are_held(
    workdir, monkeypatch, capsys
):
    network = open_trained(workdir, "best")
    whole = inspection.look(network)
    monkeypatch.setattr(inspection, "MOST_EXAMPLES", 7)
    some = inspection.look(network)
    assert len(some.images) == len(some.hidden) == 7
    assert some.total == whole.total
    np.testing.assert_array_equal(some.confusion(), whole.confusion())
    chosen = np.linspace(0, whole.total - 1, 7).astype(int)
    np.testing.assert_array_equal(some.labels, whole.labels[chosen])
    np.testing.assert_array_equal(some.images, whole.images[chosen])
    classes = 60
    many = dataclasses.replace(
        some,
        class_names=tuple(map(str, range(classes))),
        every_label=np.repeat(np.arange(classes - 1), 2).astype(np.int32),
        every_prediction=np.arange(2 * classes - 2, dtype=np.int32) % (classes - 1),
    )
    table = sections.errors_by_class(many)
    assert len(table.rows) == classes
    assert table.summary == "All 60 classes"
    assert table.rows[-1] == ("59", "0", "0", "no image")


def test_an_image_that_can_t_be_read_is_left_out_and_counted(workdir, monkeypatch):
    network = open_trained(workdir, "best")
    dataset = network.open_data(None).dataset
    source = dataset.splits["validation"]

    class Broken:
        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            if index == 2:
                raise InputError("broken")
            return source[index]

        def __getattr__(self, name):
            return getattr(source, name)

    broken = dataclasses.replace(
        dataset, splits={**dataset.splits, "validation": Broken()}
    )
    pipeline = types.SimpleNamespace(dataset=broken)
    monkeypatch.setattr(inspection, "open_data", lambda *_: pipeline)
    insight = inspection.look(network)
    assert (insight.total, insight.unreadable) == (len(source) - 1, 1)


def test_a_moving_mean_is_shorter_at_the_ends():
    values = np.random.default_rng(0).normal(size=200)
    expected = [values[max(n - 5, 0) : n + 6].mean() for n in range(200)]
    np.testing.assert_allclose(charts.smoothed(values), expected)
    np.testing.assert_array_equal(charts.smoothed(values[:3]), values[:3])


def test_charts_have_no_empty_panel(tmp_path):
    train = {
        "epoch": np.arange(5.0),
        "loss": np.ones(5),
        "top1_error": np.ones(5),
        "learning_rate": np.full(5, 0.01),
        "images_per_second": np.full(5, 9.0),
        "input_wait_fraction": np.zeros(5),
    }
    run = metrics_file.Curves("run", {"train": train, "validation": {}})
    assert len(charts.training([run]).axes) == 2
    assert len(charts.throughput([run]).axes) == 1
    assert "0.01 all along" in sections.training([run], tmp_path).text
    varying = {**train, "learning_rate": np.geomspace(1, 0.1, 5)}
    varying["input_wait_fraction"] = np.full(5, 0.5)
    other = metrics_file.Curves("run", {"train": varying, "validation": {}})
    assert len(charts.training([other]).axes) == 3
    assert len(charts.throughput([other]).axes) == 2


def test_errors_over_ten_crops_are_those_of_this_run_alone():
    line = {"step": 1, "epoch": 1.0, "loss": 1.0, "images_per_second": 10.0}
    splits = {"train": line, "validation": {"step": 1, "top1_error": 0.5}}
    arrays = {
        split: {name: np.array([value]) for name, value in values.items()}
        for split, values in splits.items()
    }
    run = metrics_file.Curves("run", arrays)
    alone = {
        "split": "validation",
        "members": 1,
        "views": 10,
        "top1_error": 0.25,
        "checkpoints": ["run:1"],
    }
    # Of several runs, of one crop, of another checkpoint.
    lines = [
        alone,
        {**alone, "members": 2, "top1_error": 0.1},
        {**alone, "views": 1},
        {**alone, "checkpoints": ["run:11"], "top1_error": 0.2},
    ]
    (numbers,) = sections.result(run, 5, measured=lines, batch_size=30).parts
    assert isinstance(numbers, html.Numbers)
    assert ("top-1 error, 10 crops", "25.00%") in numbers.pairs
    assert ("time in steps", "0 min 03 s") in numbers.pairs


def kernels(steps, towers=2):
    rng = np.random.default_rng(0)
    shape = (towers, 11, 11, 3, 20)
    return {step: rng.normal(0, step, shape).astype(np.float32) for step in steps}


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_kernels_over_a_run_are_an_animation(tmp_path, ending):
    path = tmp_path / f"kernels.{ending}"
    kernel_sheet.write_animation(kernels((5, 1, 3)), path)
    with Image.open(path) as image:
        assert sum(1 for _ in ImageSequence.Iterator(image)) == 3
        spread = []
        for frame in range(3):
            image.seek(frame)
            pixels = np.asarray(image.convert("RGB"), np.float32)
            # The kernels of the first tower, below the headings.
            spread.append(pixels[60:110].std())
    # In their order, each stretched as at its largest.
    assert spread[0] < spread[1] < spread[2]


def test_kernels_of_each_tower_have_transparent_gaps():
    (first,) = kernels((1,)).values()
    whole = kernel_sheet.kernel_sheet(first)
    sheets = kernel_sheet.tower_sheets(first)
    assert len(sheets) == 2
    shown = sheets[0][..., 3] > 0
    assert 0 < shown.mean() < 1
    np.testing.assert_array_equal(sheets[0][shown][:, :3], whole[: len(shown)][shown])
    (only,) = kernel_sheet.tower_sheets(first[:1])
    np.testing.assert_array_equal(only, sheets[0])


def test_a_folder_that_takes_no_kernels_is_one_line(tmp_path):
    (tmp_path / "figures").write_text("in the way")
    (first,) = kernels((1,)).values()
    with pytest.raises(Failure, match="kernels.png can't be written"):
        sections.kernels(first, tmp_path / "figures")


def test_a_network_that_has_died_has_no_map():
    with pytest.raises(InputError, match="the same for every image"):
        embedding.two_dimensional(np.zeros((9, 4), np.float32))


def test_cells_of_a_map_are_near_the_places_and_its_own():
    places = np.random.default_rng(0).random((23, 2))
    cells = embedding.on_a_grid(places)
    assert len({tuple(cell) for cell in cells.tolist()}) == 23
    assert cells.min() >= 0
    assert cells.max() <= 4
    # Where every cell has one place, that is its image's.
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2)
    order = np.random.default_rng(1).permutation(16)
    np.testing.assert_array_equal(
        embedding.on_a_grid((grid[order] + 0.4) / 4), grid[order]
    )


@pytest.mark.slow
@pytest.mark.extended
def test_what_is_asked_for_is_in_the_report(report_run, tmp_path, photographs, capsys):
    image, animation = tmp_path / "photo.png", tmp_path / "kernels.gif"
    Image.fromarray(photographs[0]).save(image)
    options = ["--map", "--best=conv2", f"--explain={image}"]
    figures.main([f"--workdir={report_run}", *options, f"--animation={animation}"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["animation"] == str(animation)
    page = (report_run / "report.html").read_text()
    for title in ("Map of the last hidden layer", "Best images of conv2"):
        assert f">{title}</h2>" in page
    assert ">Explanation of photo.png</h2>" in page
    for name in ("map", "best_conv2", "explain_photo"):
        assert (report_run / "figures" / f"{name}.png").stat().st_size > 10_000
    with Image.open(animation) as frames:
        assert sum(1 for _ in ImageSequence.Iterator(frames)) > 1


def test_what_can_t_be_asked_for_is_one_line(workdir, tmp_path):
    def refused(match, *options):
        with pytest.raises(InputError, match=match):
            figures.main([f"--workdir={workdir}", *options])

    refused("no layer 'conv9'; choose from", "--best=conv9")
    refused("must end in .gif, .png or .webp", f"--animation={tmp_path / 'x.mp4'}")
    refused("none.jpg is not a file", f"--explain={tmp_path / 'none.jpg'}")
    refused("are for one run", f"--workdir={workdir}", "--map")


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


def test_kernels_that_are_no_convolution_of_colours_are_not_drawn(tmp_path):
    """Of a fully connected layer, of grey images, of a locally connected layer."""
    for shape in ((1, 12, 4), (2, 5, 5, 1, 4), (2, 4, 4, 3, 3, 3, 4)):
        assert sections.kernels(np.zeros(shape), tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_errors_of_many_classes_take_little_memory():
    """A number for each pair of 30,000 classes would be 7 GB."""
    names = tuple(map(str, range(30_000)))
    labels, predictions = np.array([0, 0, 7, 7]), np.array([0, 3, 7, 7])
    none = np.zeros((0, 1, 1, 3), np.uint8)
    insight = Insight(
        class_names=names,
        images=none,
        labels=labels[:0],
        probabilities=np.zeros((0, 1)),
        hidden=np.zeros((0, 1)),
        every_label=labels,
        every_prediction=predictions,
        unreadable=0,
        training=1,
    )
    tracemalloc.start()
    table = sections.errors_by_class(insight)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e8
    assert table.rows[0][:4] == ("0", "2", "1", "50%")
    assert ("7", "2", "0", "0%") in [row[:4] for row in table.rows]


def test_images_of_one_name_have_figures_of_their_own():
    images = [Path("a/cat.jpg"), Path("dog.jpg")]
    assert extras.names_of(images) == ["cat", "dog"]
    images = [Path("a/cat.jpg"), Path("b/cat.jpg")]
    assert extras.names_of(images) == ["a-cat-jpg", "b-cat-jpg"]
    images = [Path("a/cat.jpg"), Path("b/cat.png")]
    assert extras.names_of(images) == ["cat-jpg", "cat-png"]
