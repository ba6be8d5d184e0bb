"""Predictions and features against a forward pass by hand."""

import hashlib
import json
import os
import shutil
from collections.abc import Generator

import jax
import numpy as np
import pytest
from PIL import Image

import alexnet_jax
from alexnet_jax import predict as command
from alexnet_jax import prepare
from alexnet_jax.data import image_paths
from alexnet_jax.inference import feature_store
from alexnet_jax.inference.extraction import write_features
from alexnet_jax.inference.prediction import predict
from alexnet_jax.runtime.errors import Failure, InputError

import runs
from networks import features_of


def by_hand(workdir, paths, layers=()):
    model, variables, preprocess, names = alexnet_jax.load(workdir)
    images = preprocess(paths)
    logits, kept = features_of(model, variables, images, ("fc8", *layers))
    return jax.nn.softmax(logits), kept, names


def test_images_are_found_in_order(images):
    found = image_paths.find([str(images / "2"), str(images / "0" / "*.png")])
    names = ["2/11.png", "2/2.png", "2/5.png", "2/8.png"]
    names += ["0/0.png", "0/3.png", "0/6.png", "0/9.png"]
    assert [str(path.relative_to(images)) for path in found] == names
    with pytest.raises(InputError, match=r"nothing\*.jpg does not exist"):
        image_paths.find([str(images / "nothing*.jpg")])


def test_only_a_few_images_are_decoded_ahead(monkeypatch):
    made = []
    monkeypatch.setattr(image_paths, "AHEAD", 3)
    monkeypatch.setattr(image_paths, "cores", lambda: 2)
    results = image_paths.ahead(lambda item: made.append(item) or item, range(100))
    assert [next(results) for _ in range(5)] == list(range(5))
    assert len(made) <= 5 + 6
    assert isinstance(results, Generator)
    results.close()


@pytest.mark.parametrize(
    "batch_size", [3, pytest.param(32, marks=pytest.mark.extended)]
)
def test_predictions_are_those_of_a_forward_pass(workdir, images, batch_size):
    paths = image_paths.find([str(images / "2"), str(images / "0")])
    probabilities, _, names = by_hand(workdir, paths)
    predictions = [*predict(workdir, paths, batch_size=batch_size)]
    assert [prediction.path for prediction in predictions] == paths
    for prediction, expected in zip(predictions, probabilities, strict=True):
        assert len(prediction.classes) == 5
        best = np.argsort(-np.asarray(expected), kind="stable")[:5]
        assert [name for name, _ in prediction.classes] == [names[b] for b in best]
        values = [value for _, value in prediction.classes]
        np.testing.assert_allclose(values, expected[best], rtol=1e-4)


@pytest.mark.slow
def test_an_unreadable_image_is_named_and_the_others_continue(workdir, images, capsys):
    arguments = [f"--workdir={workdir}", "--views=10", "--json", str(images)]
    with pytest.raises(Failure, match="1 of the images"):
        command.main(arguments)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 11
    for line in out.splitlines():
        shown = json.loads(line)
        assert len(shown["classes"]) == 5
    assert "4.png is not a" in err
    command.main([f"--workdir={workdir}", str(images / "0" / "0.png")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(images / "0" / "0.png")
    assert len(lines) == 6
    assert "%" in lines[1]


def test_a_name_that_is_not_utf_8_is_shown_with_escapes(
    workdir, images, tmp_path, capsys
):
    strange = tmp_path / os.fsdecode(b"Mu\xf1oz.png")
    shutil.copy(images / "0" / "0.png", strange)
    command.main([f"--workdir={workdir}", str(strange)])
    command.main([f"--workdir={workdir}", str(strange), "--json"])
    plain, *_, last = capsys.readouterr().out.splitlines()
    assert plain == json.loads(last)["image"] == f"{tmp_path}/Mu\\xf1oz.png"


LAYERS = ("conv5", "fc7.linear", "pool1")


def test_features_are_those_of_a_forward_pass(workdir, images, tmp_path, capsys):
    zarr = pytest.importorskip("zarr")
    output = tmp_path / "features.zarr"
    written = write_features(workdir, images, LAYERS, output, batch_size=5)
    assert (written.images, written.unreadable, written.step) == (12, 1, 4)
    assert "4.png is not a" in capsys.readouterr().err
    group = zarr.open_group(output, mode="r")
    paths = image_paths.find([str(images)])
    names = [str(path.relative_to(images)) for path in paths]
    assert group["name"][:].tolist() == names
    assert group["label"][:].tolist() == [int(name[0]) for name in names]
    about = dict(group.attrs)
    assert about["class_names"] == ["0", "1", "2"]
    assert about["outputs"] == list("0123456789")
    assert about["splits"] == {"all": 12}
    assert (about["step"], about["preset"]) == (4, None)
    assert about["preprocessing"]["size"] == 77
    assert about["preprocessing"]["crop"] == 67
    assert {"alexnet_jax", "jax"} <= set(about["versions"])
    good = [place for place, name in enumerate(names) if name != "1/4.png"]
    _, kept, _ = by_hand(workdir, [paths[place] for place in good], LAYERS)
    for layer in LAYERS:
        rows = group[layer][:]
        assert len(rows) == 12
        assert np.isnan(rows[names.index("1/4.png")]).all()
        np.testing.assert_allclose(rows[good], kept[layer], rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="exists already"):
        write_features(workdir, images, LAYERS, output)


@pytest.mark.slow
def test_features_in_bfloat16_are_rounded(workdir, images, tmp_path):
    usual, rounded = tmp_path / "usual.npy", tmp_path / "rounded.npy"
    one = images / "0"
    write_features(workdir, one, "fc6", usual)
    write_features(workdir, one, "fc6", rounded, dtype="bfloat16")
    expected, found = np.load(usual), np.load(rounded)
    assert found.dtype == np.float32
    assert json.loads(rounded.with_suffix(".json").read_text())["dtype"] == "bfloat16"
    difference = np.linalg.norm(found - expected)
    assert 0 < difference < 0.02 * np.linalg.norm(expected)


@pytest.mark.slow
def test_features_continue_where_they_were_stopped(
    workdir, images, tmp_path, monkeypatch
):
    def write(output):
        return write_features(workdir, images, ["fc6"], output, batch_size=5)

    whole, stopped = tmp_path / "whole.npy", tmp_path / "stopped.npy"
    assert write(whole).unreadable == 1
    expected = np.load(whole)
    assert expected.shape == (12, 16)
    shown, asked = image_paths.shown, []

    def power_cut(paths, *how):
        asked.append(len(paths))
        for number, image in enumerate(shown(paths, *how)):
            if number == 11:
                raise RuntimeError("power cut")
            yield image

    monkeypatch.setattr(image_paths, "shown", power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        write(stopped)
    with pytest.raises(InputError, match="the beginning of other features"):
        write_features(workdir, images, ["fc7"], stopped, batch_size=5)
    # As if killed while the next rows were being written.
    with stopped.open("ab") as file:
        file.write(b"half a row")
    monkeypatch.setattr(image_paths, "shown", shown)
    assert write(stopped).unreadable == 1
    assert asked == [12]
    np.testing.assert_array_equal(np.load(stopped), expected)
    assert stopped.read_bytes() == whole.read_bytes()
    assert (
        stopped.with_suffix(".csv").read_text() == whole.with_suffix(".csv").read_text()
    )
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{name}.{ending}"
        for name in ("stopped", "whole")
        for ending in ("csv", "json", "npy")
    }


def test_no_other_file_is_overwritten_and_a_damaged_one_is_not_continued(
    workdir, images, tmp_path, monkeypatch
):
    def write():
        write_features(workdir, images, ["fc6"], output, batch_size=5)

    output = tmp_path / "fc6.npy"
    table = output.with_suffix(".csv")
    table.write_text("mine")
    with pytest.raises(InputError, match="fc6.csv exists already"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["fc6.csv"]
    table.unlink()

    append = feature_store.Output.append

    def power_cut(self, *arguments):
        append(self, *arguments)
        raise RuntimeError("power cut")

    monkeypatch.setattr(feature_store.Output, "append", power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        write()
    monkeypatch.setattr(feature_store.Output, "append", append)
    lines = table.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    table.write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="fc6.csv is shorter than what was written"):
        write()
    (tmp_path / "fc6.npy.progress.json").write_text('{"done": 5}')
    with pytest.raises(InputError, match="progress.json is damaged"):
        write()


@pytest.mark.slow
def test_features_of_a_prepared_set(workdir, images, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(images, source)
    (source / "1" / "4.png").unlink()
    prepared = tmp_path / "prepared"
    prepare.prepare(
        source="folder",
        input_path=str(source),
        output=prepared,
        size=77,
        validation_fraction=0.5,
        encoding="raw",
        workers=1,
    )
    tables = {}
    for split in ("train", "validation", "all"):
        output = tmp_path / f"{split}.npy"
        write_features(workdir, prepared, "fc7", output, split=split)
        tables[split] = output.with_suffix(".csv").read_text().splitlines()[1:]
        assert len(tables[split]) == len(np.load(output))
    assert tables["all"] == tables["train"] + tables["validation"]
    assert all(row.split(",")[0][0] == row.split(",")[1] for row in tables["all"])
    about = json.loads((tmp_path / "all.json").read_text())
    splits = {name: len(tables[name]) for name in ("train", "validation")}
    assert about["splits"] == splits
    assert about["class_names"] == ["0", "1", "2"]
    names = [row.split(",")[0] for row in tables["all"]]
    _, kept, _ = by_hand(workdir, [source / name for name in names], ("fc7",))
    np.testing.assert_allclose(
        np.load(tmp_path / "all.npy"), kept["fc7"], rtol=1e-4, atol=1e-4
    )


def test_labels_are_those_of_the_inputs_own_folders(workdir, tmp_path, capsys):
    """Of classes that the run does not know, with names of any length."""
    zarr = pytest.importorskip("zarr")
    folder = tmp_path / "images"
    deep = "/".join(["d" * 100] * 3)
    names = ["kite/a.png", f"owl/{deep}/a.png", f"owl/{deep}/b.png", "owl/z.png"]
    # A name that is not UTF-8.
    names.insert(1, os.fsdecode(b"kite/b\xff.png"))
    for name in (*names, "alone.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 80), (9, 99, 199)).save(folder / name)
    output = tmp_path / "features.zarr"
    write_features(workdir, folder, "fc7", output)
    messages = capsys.readouterr().err
    assert "1 of 6 images lie in no class folder; their label is -1" in messages
    group = zarr.open_group(output, mode="r")
    names[1] = r"kite/b\xff.png"
    assert group["name"][:].tolist() == ["alone.png", *names]
    assert group["label"][:].tolist() == [-1, 0, 0, 1, 1, 1]
    assert group.attrs["class_names"] == ["kite", "owl"]
    with pytest.raises(InputError, match="--split=train is for a prepared data set"):
        write_features(workdir, folder, "fc7", tmp_path / "x.npy", split="train")


def test_a_file_of_features_says_which_parameters_made_it(workdir, images, tmp_path):
    write_features(workdir, images, "fc7", tmp_path / "fc7.npy")
    about = json.loads((tmp_path / "fc7.json").read_text())
    params = runs.final_state(workdir, 4)
    digest = hashlib.sha256()
    for name in sorted(n.removeprefix("params.") for n in params if "params" in n):
        array = params[f"params.{name}"]
        one = hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        digest.update(f"{name} {one.hexdigest()}\n".encode())
    assert about["parameters_sha256"] == digest.hexdigest()


def test_an_unknown_layer_lists_them(workdir, images, tmp_path):
    with pytest.raises(InputError, match="no layer 'fc9'; choose from .*fc8"):
        write_features(workdir, images, ["fc9"], tmp_path / "x.npy")
    with pytest.raises(InputError, match="must end in .zarr or .h5 or"):
        write_features(workdir, images, ["fc7"], tmp_path / "x.txt")
    with pytest.raises(InputError, match="takes one layer"):
        write_features(workdir, images, LAYERS, tmp_path / "x.npy")
