"""The features command: layers by any name, images from anywhere, shorter rows."""

import csv
import functools
import json
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from sklearn.random_projection import SparseRandomProjection

from alexnet_jax import features
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.inference import components, layer_names
from alexnet_jax.inference.extraction import Written, write_features
from alexnet_jax.inference.extraction_input import open_input
from alexnet_jax.inference.reduction import POOLS, pool
from alexnet_jax.inference.trained import open_trained, open_untrained
from alexnet_jax.inference.trajectory import write_trajectory
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runtime.errors import Failure, InputError
from alexnet_jax.training import step

import runs
import users
from watch import wait_for


OWT = AlexNet.from_preset("owt", num_classes=3)
TWO = ("conv3", "fc6")
# What lies beside an output that is not finished.
ENDS = (".progress.json", ".pca.npz")


@pytest.fixture(scope="module")
def raw(workdir, images, tmp_path_factory):
    """Two layers of every image, as they are."""
    h5py = pytest.importorskip("h5py")
    output = tmp_path_factory.mktemp("raw") / "raw.h5"
    write_features(workdir, images, TWO, output, batch_size=5)
    with h5py.File(output) as file:
        return {name: file[name][()] for name in (*TWO, "name")}


def readable(rows):
    return rows[np.isfinite(rows).reshape(len(rows), -1).all(axis=1)]


def test_other_names_stand_for_the_same_layers():
    asked = ["relu5", "features.12", "V1", "classifier.4", "conv2.linear"]
    found = layer_names.resolve(OWT, asked)
    assert found == ["conv5", "pool5", "pool1", "fc7.linear", "conv2.linear"]
    assert layer_names.resolve(OWT, ["all"]) == list(OWT.features)
    # Of another family only the names that mean the same.
    small = AlexNet.from_preset("small", num_classes=3)
    assert layer_names.resolve(small, ["relu2", "relu3"]) == ["conv2", "fc3"]
    for name in ("V1", "features.2", "relu5"):
        with pytest.raises(InputError, match=f"no layer '{name}'; choose from"):
            layer_names.resolve(small, [name])


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(
        InputError, match=r"no layer 'relu55'; choose from .*relu5.*all"
    ):
        layer_names.resolve(OWT, ["relu55"])
    with pytest.raises(InputError, match="names conv3 twice, as V2 and features.7"):
        layer_names.resolve(OWT, ["V2", "features.7"])


def test_torchvisions_names_are_its_modules_in_their_order():
    """Its network is this list, which its own file states."""
    modules = [
        "conv",
        "relu",
        "pool",
        "conv",
        "relu",
        "pool",
        "conv",
        "relu",
        "conv",
        "relu",
        "conv",
        "relu",
        "pool",
    ]
    number = 0
    for place, kind in enumerate(modules):
        number += kind == "conv"
        ours = {"conv": f"conv{number}.linear", "relu": f"conv{number}"}
        name = ours.get(kind, f"pool{number}")
        assert layer_names.TORCHVISION[f"features.{place}"] == name


def test_the_list_shows_values_fields_and_names(workdir, capsys):
    features.main([f"--workdir={workdir}", "--list"])
    *table, last = capsys.readouterr().out.splitlines()
    shown = {layer["name"]: layer for layer in json.loads(last)["layers"]}
    assert list(shown) == [line.split()[0] for line in table[1:]]
    assert shown["pool1"] == {
        "name": "pool1",
        "shape": [7, 7, 8],
        "receptive_field": 19,
        "stride": 8,
        "aliases": ["features.2", "V1"],
    }
    assert shown["fc7"]["receptive_field"] is None


def test_a_list_of_files_gives_its_order(images, tmp_path):
    names = ["2/11.png", "0/3.png", "2/2.png"]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*names[:2], "", f"{images / names[2]}\r", ""]))
    opened = open_input(images, 77, "all", files=listed)
    rows = [*opened.rows(0)]
    assert [row.name for row in rows] == [*names[:2], str(images / names[2])]
    assert [row.name for row in opened.rows(2)] == [str(images / names[2])]
    in_folder = {row.name: row.image for row in open_input(images, 77, "all").rows(0)}
    for row, name in zip(rows, names, strict=True):
        np.testing.assert_array_equal(row.image, in_folder[name])
    listed.write_text("0/3.png\n0/nothing.png\n")
    with pytest.raises(InputError, match=r"line 2: .*0/nothing.png is not a file"):
        open_input(images, 77, "all", files=listed)
    listed.write_text(" \n")
    with pytest.raises(InputError, match="names no image"):
        open_input(None, 77, "all", files=listed)


@pytest.mark.parametrize("kind", ["npy", "h5"])
def test_arrays_of_images_are_read(photographs, tmp_path, kind):
    stack = np.stack([photographs[0][:90, :110], photographs[1][7:97, :110]])
    path = tmp_path / f"stimuli.{kind}"
    if kind == "npy":
        np.save(path, stack)
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["set/images"], file["labels"] = stack, [0, 1]
    rows = [*open_input(path, 77, "all").rows(0)]
    assert [row.name for row in rows] == ["0", "1"]
    for row, image in zip(rows, stack, strict=True):
        Image.fromarray(image).save(tmp_path / "one.png")
        (file,) = open_input(None, 77, "all", files=lines(tmp_path, "one.png")).rows(0)
        np.testing.assert_array_equal(row.image, file.image)


@pytest.mark.parametrize("grey", [False, True])
def test_images_of_matlab_are_turned(photographs, tmp_path, grey):
    """Which writes its axes in the opposite order: height x width x 3 x images."""
    h5py = pytest.importorskip("h5py")
    stack = np.stack([photographs[0][:90, :110], photographs[1][7:97, :110]])
    stack = stack[..., 1] if grey else stack
    np.save(tmp_path / "stimuli.npy", stack)
    path = tmp_path / "stimuli.mat"

    def write(array):
        with h5py.File(path, "w") as file:
            file["images"] = array.T
            file["images"].attrs["MATLAB_class"] = np.bytes_("uint8")

    write(np.moveaxis(stack, 0, -1))
    expected = open_input(tmp_path / "stimuli.npy", 77, "all").rows(0)
    found = open_input(path, 77, "all").rows(0)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
    write(photographs[0][:90, :110])
    with pytest.raises(InputError, match="height x width x 3 x images"):
        open_input(path, 77, "all")
    path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(
        InputError, match=r"older format; write it with save\(..., '-v7"
    ):
        open_input(path, 77, "all")


def lines(folder, *names):
    path = folder / "names.txt"
    path.write_text("\n".join(names))
    return path


def test_arrays_in_doubt_are_refused(tmp_path):
    path = tmp_path / "stimuli.npy"
    np.save(path, np.zeros((2, 9, 9, 3), np.float32))
    with pytest.raises(
        InputError, match=r"stimuli.npy: an image of float32 has no cer"
    ):
        open_input(path, 77, "all")
    np.save(path, np.zeros((2, 3, 9, 9), np.uint8))
    with pytest.raises(InputError, match="put the channels last"):
        open_input(path, 77, "all")
    np.save(path, np.zeros((9, 8, 3), np.uint8))
    with pytest.raises(InputError, match=r"\(9, 8, 3\): one image in colour, or grey"):
        open_input(path, 77, "all")
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="can't be read"):
        open_input(path, 77, "all")
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "stimuli.h5"
    with h5py.File(path, "w") as file:
        file["left"] = file["right"] = np.zeros((2, 9, 9), np.uint8)
    with pytest.raises(InputError, match=r"in doubt: it has left .*:NAME"):
        open_input(path, 77, "all")
    with pytest.raises(InputError, match="has no dataset middle"):
        open_input(tmp_path / "stimuli.h5:middle", 77, "all")
    assert open_input(tmp_path / "stimuli.h5:right", 77, "all").total == 2


@pytest.mark.slow
def test_hdf5_has_names_labels_and_attributes(workdir, images, tmp_path, raw):
    """Of an untrained network, as a training of that seed begins."""
    h5py = pytest.importorskip("h5py")
    output = tmp_path / "f.h5"
    with pytest.raises(Failure, match="1 of the images"):
        features.main(
            [
                *(f"--workdir={workdir}", f"--input={images}", "--layer=V2,fc6"),
                *(f"--output={output}", "--untrained", "--seed=5", "--batch_size=5"),
            ]
        )
    network = open_untrained(workdir, 5)
    begin = step.init_state(
        network.model, optax.identity(), meshes.one_device(), network.data.crop, 5
    )
    np.testing.assert_array_equal(
        network.plain_params["conv1"]["kernel"], begin.params["conv1"]["kernel"]
    )
    with h5py.File(output) as file:
        assert file["conv3"].shape == raw["conv3"].shape
        assert not np.allclose(file["fc6"][:3], raw["fc6"][:3])
        names = [*file["name"].asstr()[()]]
        assert names == [*np.char.decode(raw["name"])]
        assert file["label"][()].tolist() == [int(name[0]) for name in names]
        assert [*file["outputs"].asstr()[()]] == list("0123456789")
        about = dict(file.attrs)
        assert (about["seed"], about["step"], about["preset"]) == (5, 0, b"null")
        assert about["parameters_sha256"].decode() == network.digest
        assert json.loads(about["preprocessing"])["crop"] == 67


def test_maps_are_pooled_and_vectors_stay():
    maps = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype(np.float32)
    pooled = {how: np.asarray(pool(jnp.asarray(maps), how)) for how in POOLS}
    np.testing.assert_allclose(pooled["mean"], maps.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(pooled["max"], maps.max(axis=(1, 2)))
    np.testing.assert_array_equal(pooled["centre"], maps[:, 1, 1])
    for how in (*POOLS, None):
        assert pool(jnp.asarray(maps[0, 0]), how).shape == (3, 5)


def test_shorter_rows_are_those_of_a_direct_computation(workdir, images, tmp_path, raw):
    h5py = pytest.importorskip("h5py")
    flat = readable(raw["conv3"]).reshape(11, -1)
    number: Any = 20
    projection = SparseRandomProjection(number, random_state=3, dense_output=True)
    projected = projection.fit(flat).transform(flat)
    output = tmp_path / "projected.h5"
    write_features(
        *(workdir, images, TWO, output), batch_size=5, project=20, pca=4, seed=3
    )
    with h5py.File(output) as file:
        found = readable(file["conv3"][()])
        assert file["fc6"].shape == (12, 4)
    # The directions of a PCA of all images at once, which are more than fit in a group.
    centred = projected - projected.mean(axis=0, dtype=np.float64)
    with np.load(f"{output}.pca.npz") as saved:
        np.testing.assert_allclose(saved["conv3.mean"], projected.mean(axis=0), 1e-4)
        directions = saved["conv3.components"]
        assert saved["fc6.components"].shape == (4, 16)
    np.testing.assert_allclose(directions @ directions.T, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(
        found, centred @ directions.T, atol=1e-5 * abs(found).max()
    )
    left = np.linalg.svd(centred, compute_uv=False)[4:]
    lost = np.linalg.norm(centred - found @ directions)
    assert lost < 1.1 * np.linalg.norm(left)


@pytest.mark.slow
@pytest.mark.parametrize("stopped_at", [1, pytest.param(4, marks=pytest.mark.extended)])
def test_a_pca_that_was_stopped_continues_to_the_same_bytes(
    workdir, images, tmp_path, monkeypatch, stopped_at, raw
):
    monkeypatch.setattr(components, "SECONDS_BETWEEN_SAVES", -1.0)

    def write(name):
        output = tmp_path / name
        write_features(workdir, images, TWO, output, batch_size=5, pca=2)
        return output.read_bytes(), (tmp_path / f"{name}.pca.npz").read_bytes()

    whole = write("whole.h5")
    learn, made = components.IncrementalPCA.partial_fit, []

    def power_cut(self, rows):
        made.append(len(rows))
        if len(made) == stopped_at:
            raise RuntimeError("power cut")
        return learn(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(components.IncrementalPCA, "partial_fit", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            write("stopped.h5")
    assert write("stopped.h5") == whole


@pytest.mark.extended
def test_every_checkpoint_has_its_own_features(tmp_path, images, capsys):
    options = ("steps=4", "save_steps=2")
    workdir = runs.run(
        tmp_path,
        "run",
        "--config.checkpoint.keep_latest=2",
        *(f"--config.train.{option}" for option in options),
    )
    options = [f"--workdir={workdir}", f"--input={images}", "--layer=fc6"]
    options.append("--batch_size=5")
    output = tmp_path / "f.npy"
    with pytest.raises(Failure, match="1 of the images"):
        features.main([*options, f"--output={output}", "--checkpoint=all"])
    outputs = json.loads(capsys.readouterr().out.splitlines()[-1])["outputs"]
    assert outputs == {str(s): str(tmp_path / f"f.{s}.npy") for s in (2, 4)}
    found = {number: np.load(path) for number, path in outputs.items()}
    for number, values in found.items():
        alone = tmp_path / f"alone{number}.npy"
        write_features(
            workdir, images, "fc6", alone, checkpoint=int(number), batch_size=5
        )
        np.testing.assert_array_equal(values, np.load(alone))
    assert not np.array_equal(found["2"], found["4"], equal_nan=True)
    with pytest.raises(InputError, match=r"f.2.npy exists already"):
        features.main([*options, f"--output={output}", "--checkpoint=all"])


def test_the_images_of_a_list_pooled(tmp_path, workdir, images, raw):
    names = ["2/11.png", "0/3.png"]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(names))
    output = tmp_path / "pooled.npy"
    options = [f"--workdir={workdir}", f"--input={images}", f"--files={listed}"]
    features.main([*options, "--layer=conv3", "--pool=mean", f"--output={output}"])
    all_names = [*np.char.decode(raw["name"])]
    expected = [raw["conv3"][all_names.index(name)].mean(axis=(0, 1)) for name in names]
    np.testing.assert_allclose(np.load(output), expected, rtol=1e-5)


def test_the_split_of_a_data_set_is_that_of_the_run(tmp_path, workdir):
    """The digits have none, and the run has held out half of them."""
    output = tmp_path / "held_out.npy"
    options = ("--source=digits", "--split=validation", "--layer=fc7")
    features.main([f"--workdir={workdir}", *options, f"--output={output}"])
    with output.with_suffix(".csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    splits = open_trained(workdir, "best").open_data(None).dataset.splits
    held_out = splits["validation"]
    assert names == [held_out.name(index) for index in range(len(held_out))]
    assert len(names) == round(0.5 * 1797)


def test_best_images_refuse_what_means_nothing_to_them(tmp_path, workdir, images):
    options = [f"--workdir={workdir}", f"--input={images}", "--layer=conv5", "--top=2"]
    for option in ("--untrained", "--pool=max", "--project=3", "--pca=3"):
        with pytest.raises(InputError, match=option.partition("=")[0]):
            features.main([*options, option, f"--output={tmp_path / 'best.npz'}"])


def test_a_checkpoint_that_is_removed_meanwhile_is_left_out(tmp_path, capsys):
    """A training that goes on keeps few."""
    folder = tmp_path / "checkpoints"
    for name in "2468":
        (folder / name).mkdir(parents=True)
    calls = []

    def write(number, path):
        calls.append(number)
        if len(calls) == 2:
            # Another is gone while this one is half written.
            path.touch()
            path.with_name(path.name + ".progress.json").touch()
            shutil.rmtree(folder / "4")
            raise KeyboardInterrupt
        if number == 2:
            shutil.rmtree(folder / "6")
        path.touch()
        return Written(images=1, unreadable=0, layers={}, step=number)

    output = tmp_path / "f.npy"
    with pytest.raises(KeyboardInterrupt):
        write_trajectory(tmp_path, output, {}, write)
    found = write_trajectory(tmp_path, output, {}, write)
    assert calls == [2, 4, 8]
    assert found == {kept: tmp_path / f"f.{kept}.npy" for kept in (2, 8)}
    assert capsys.readouterr().err.count("is gone, and left out") == 2
    assert not list(tmp_path.glob("*.checkpoints.json"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--layer=fc6"], "--output is missing"),
        (["--output=x.npy"], "--layer is missing"),
        (
            ["--layer=fc6", "--output=x.npy", "--pca=13"],
            "--pca=13 needs as many images",
        ),
        (
            ["--layer=fc6", "--output=x.npy", "--project=0"],
            "--project=0 must be at least",
        ),
        (["--layer=fc6", "--output=x.npy", "--seed=-1"], "--seed=-1 must"),
        (
            ["--layer=fc6", "--output=x.npy", "--untrained", "--checkpoint=all"],
            "--untrained has no checkpoints; leave out --checkpoint=all",
        ),
        (
            ["--layer=fc6", "--output=x.npy", "--untrained", "--checkpoint=4"],
            "--untrained has no checkpoints; leave out --checkpoint=4",
        ),
    ],
)
def test_bad_input_is_one_line(workdir, images, tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        features.main([f"--workdir={workdir}", f"--input={images}", *given])
    assert not [*tmp_path.iterdir()]


def test_a_beginning_of_other_features_is_named(workdir, images, tmp_path, monkeypatch):
    output = tmp_path / "f.npy"

    def stop(*arguments):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr("alexnet_jax.inference.feature_npy.NpyFile.write", stop)
        with pytest.raises(RuntimeError):
            write_features(workdir, images, "fc6", output, batch_size=5)
    with pytest.raises(InputError, match=r"layers is \['fc6'\] there and \['fc7'\]"):
        write_features(workdir, images, "fc7", output, batch_size=5)


# The command, which notes every batch and so can be killed after any.
NOTING = """
from alexnet_jax import features
from alexnet_jax.inference import feature_store
from alexnet_jax.runtime import cli
feature_store.SECONDS_BETWEEN_NOTES = 0.0
cli.run_command(features.main)
"""


@pytest.mark.slow
@pytest.mark.extended
def test_kills_at_any_time_lose_nothing(workdir, images, tmp_path):
    """Of every format, with a projection and a PCA: the same bytes in the end."""
    pytest.importorskip("h5py")
    many = tmp_path / "images"
    for number in range(400):
        place = many / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").symlink_to(images / "0" / "3.png")

    def start(output):
        command = [
            *(sys.executable, "-c", NOTING, f"--workdir={workdir}"),
            *(f"--input={many}", "--layer=conv3,fc6", f"--output={output}"),
            *("--project=40", "--pca=4", "--batch_size=8"),
        ]
        return subprocess.Popen(
            command,
            env=users.environment(JAX_PLATFORMS="cpu"),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    assert start(tmp_path / "whole.h5").wait() == 0
    output = tmp_path / "killed.h5"
    note, learned = (output.with_name(output.name + e) for e in ENDS)

    def written_since(path, begin):
        return path.exists() and path.stat().st_mtime_ns > begin

    def done():
        return json.loads(note.read_text())["done"] if note.exists() else 0

    def in_second_pass(begin):
        return done() > before

    # While the components are learned, at their end, and twice in the second pass.
    for reached in (
        functools.partial(written_since, note),
        functools.partial(written_since, learned),
        in_second_pass,
        in_second_pass,
    ):
        begin, before = time.time_ns(), done()
        process = start(output)
        wait_for(functools.partial(reached, begin), process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert start(output).wait() == 0
    for ending in (".h5", ".h5.pca.npz"):
        killed = (tmp_path / f"killed{ending}").read_bytes()
        assert killed == (tmp_path / f"whole{ending}").read_bytes()
