"""Dissimilarities and CKA against direct computations on whole matrices."""

import csv
import json
import sys

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from alexnet_jax import compare as command
from alexnet_jax.analysis import similarity
from alexnet_jax.analysis.comparison import compare
from alexnet_jax.analysis.feature_files import Layer, open_features
from alexnet_jax.runtime.errors import Failure, InputError


COUNT = 23
NAMES = [f"{'cat' if n % 3 else 'dog'}/{n}.png" for n in range(COUNT)]
LABELS = [0 if n % 3 else 1 for n in range(COUNT)]


def features(seed=0):
    """Maps, and a wide layer that depends on them; far from zero."""
    rng = np.random.default_rng(seed)
    maps = rng.gamma(1, 3, (COUNT, 3, 3, 5)).astype(np.float32)
    mixed = maps.reshape(COUNT, -1) @ rng.normal(0, 1, (45, 12))
    wide = np.maximum(100 + mixed, 0).astype(np.float32)
    return {"conv5": maps, "fc7": wide}


def rows_of(array):
    flat = array.reshape(len(array), -1)
    return Layer(flat.shape, lambda start, stop: array[start:stop])


def write(path, columns):
    """A file as `features` writes it."""
    labels = np.asarray(LABELS, np.int32)
    if path.suffix == ".npy":
        (array,) = columns.values()
        np.save(path, array)
        with path.with_suffix(".csv").open("w", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerows([("name", "label"), *zip(NAMES, LABELS, strict=True)])
    elif path.suffix == ".h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            for name, array in columns.items():
                file[name] = array
            file["name"], file["label"] = NAMES, labels
            # An attribute that is too long for one.
            file["class_names"] = ["cat", "dog"]
    else:
        group = pytest.importorskip("zarr").open_group(path, mode="w", zarr_format=2)
        for name, array in columns.items():
            group.create_array(
                name, shape=array.shape, chunks=(8, *array.shape[1:]), dtype=array.dtype
            )[:] = array
        group.create_array("name", shape=(COUNT,), dtype=str)[:] = np.array(
            NAMES, object
        )
        group.create_array("label", shape=(COUNT,), dtype=np.int32)[:] = labels
    return path


def whole_matrix(array, distance):
    return squareform(pdist(array.reshape(len(array), -1).astype(np.float64), distance))


def debiased_cka(x, y):
    """Song et al.'s estimator, as it is written."""

    def kernel(array):
        flat = array.reshape(len(array), -1).astype(np.float64)
        gram = flat @ flat.T
        np.fill_diagonal(gram, 0)
        return gram

    def hsic(k, m):
        n, one = len(k), np.ones(len(k))
        return (
            np.trace(k @ m)
            + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ k @ m @ one)
        ) / (n * (n - 3))

    k, m = kernel(x), kernel(y)
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize("side", [1, 7, 23, 64])
@pytest.mark.parametrize("distance", similarity.DISTANCES)
def test_dissimilarities_are_scipys_whatever_the_tiles(distance, side):
    for array in features().values():
        found = np.full((COUNT, COUNT), np.nan)
        for tile in similarity.dissimilarities(rows_of(array), distance, side):
            found[tile.rows, tile.columns] = tile.values
            found[tile.columns, tile.rows] = tile.values.T
        expected = whole_matrix(array, distance)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < 1e-6


@pytest.mark.parametrize("side", [1, 7, 64])
def test_cka_is_the_estimator_as_it_is_written(side):
    noise = np.random.default_rng(1).normal(size=(COUNT, 400)).astype(np.float32)
    arrays = [*features().values(), noise]
    done = []
    found = similarity.linear_cka([*map(rows_of, arrays)], side, done.append)
    assert sum(done) == similarity.tile_count(COUNT, side)
    expected = [[debiased_cka(x, y) for y in arrays] for x in arrays]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # Debiased: a wide layer of noise is like none, where the plain estimate is not.
    assert abs(found[0, 2]) < 0.2


def test_rows_without_a_direction_have_no_angle():
    array = features()["fc7"]
    array[3] = 0
    rows = rows_of(array)
    for distance in ("correlation", "cosine"):
        (tile,) = similarity.dissimilarities(rows, distance, 64)
        assert np.isnan(tile.values[3]).all()
        assert np.isfinite(np.delete(np.delete(tile.values, 3, 0), 3, 1)).all()


@pytest.mark.parametrize("ending", ["npy", "zarr", "h5"])
@pytest.mark.parametrize("kind", ["npy", "h5"])
def test_files_of_every_format(ending, kind, tmp_path, capsys):
    if kind == "h5":
        pytest.importorskip("h5py")
    columns = features()
    columns["fc7"][4, 2] = np.nan
    columns["fc7"][9, 0] = np.inf
    if ending == "npy":
        del columns["conv5"]
    path, output = tmp_path / f"fc7.{ending}", tmp_path / f"rdm.{kind}"
    write(path, columns)
    found = compare([path], output, distance="euclidean")
    err = capsys.readouterr().err
    keep = np.delete(np.arange(COUNT), [4, 9])
    assert found.left_out == (NAMES[4], NAMES[9])
    assert all(f"left out: {NAMES[place]} has" in err for place in (4, 9))
    assert found.names == tuple(np.asarray(NAMES)[keep])
    assert found.labels == tuple(np.asarray(LABELS)[keep])
    assert set(found.layers) == set(columns)
    expected = [whole_matrix(columns[name][keep], "euclidean") for name in found.layers]
    if kind == "npy":
        matrices = np.load(output)
        about = json.loads(output.with_suffix(".json").read_text())
        assert about["layers"] == list(found.layers)
        np.testing.assert_allclose(about["cka"], found.cka)
        with output.with_suffix(".csv").open(newline="") as file:
            table = [*csv.reader(file)]
        assert table[1:] == [
            [n, str(k)] for n, k in zip(found.names, found.labels, strict=True)
        ]
    else:
        with pytest.importorskip("h5py").File(output) as file:
            matrices = np.stack([file["rdm"][name][:] for name in found.layers])
            assert [name.decode() for name in file["name"]] == list(found.names)
            assert file.attrs["distance"] == "euclidean"
            np.testing.assert_array_equal(file["cka"], found.cka)
    assert matrices.dtype == np.float32
    np.testing.assert_allclose(matrices, expected, rtol=1e-6, atol=1e-4)
    # What is drawn is a part of the same matrices.
    np.testing.assert_array_equal(
        found.drawn[0], matrices[0][np.ix_(found.sample, found.sample)]
    )
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_two_files_and_a_figure(tmp_path, capsys):
    pytest.importorskip("zarr")
    pytest.importorskip("matplotlib")
    here, there = features(), features(seed=1)
    paths = [write(tmp_path / f"{n}.zarr", c) for n, c in (("a", here), ("b", there))]
    output = tmp_path / "rdm.npy"
    options = [f"--features={path}" for path in paths]
    command.main([*options, "--layer=fc7,conv5", f"--output={output}"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["layers"] == ["a:fc7", "a:conv5", "b:fc7", "b:conv5"]
    assert (result["images"], result["left_out"]) == (COUNT, [])
    order = ("fc7", "conv5")
    expected = [[debiased_cka(here[x], there[y]) for y in order] for x in order]
    np.testing.assert_allclose(result["cka"], expected, atol=1e-6)
    assert np.load(output).shape == (4, COUNT, COUNT)
    assert result["figure"] == str(tmp_path / "rdm.png")
    assert (tmp_path / "rdm.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="rdm.npy exists already"):
        command.main([*options, f"--output={output}"])


@pytest.mark.slow
def test_files_of_one_name_get_distinct_names(tmp_path):
    h5py = pytest.importorskip("h5py")
    files = []
    for seed, run in enumerate("ab"):
        (tmp_path / run).mkdir()
        files.append(write(tmp_path / run / "f.h5", features(seed)))
    output = tmp_path / "rdm.h5"
    found = compare(files, output, layers=["fc7"])
    names = ["a-f.h5:fc7", "b-f.h5:fc7"]
    assert list(found.rows + found.columns) == names
    with h5py.File(output) as file:
        assert list(file["rdm"]) == names


def test_recordings_from_elsewhere(tmp_path):
    """Any floating point array; without a table images are numbered."""
    path = tmp_path / "brain.npy"
    np.save(path, features()["fc7"].astype(np.float64))
    with open_features(path) as opened:
        assert list(opened.layers) == ["brain"]
        assert opened.names[:2] == ("0", "1")
    found = compare([path], tmp_path / "rdm.npy")
    assert found.cka == pytest.approx(1)
    assert set(found.labels) == {-1}


def test_a_table_of_something_else_names_no_image(tmp_path):
    path, table = tmp_path / "brain.npy", tmp_path / "brain.csv"
    np.save(path, features()["fc7"])
    table.write_text("\u00e9lectrode,depth\n1,2\n", encoding="latin-1")
    with open_features(path) as opened:
        assert opened.names[:2] == ("0", "1")
    # As a spreadsheet saves it.
    lines = [("name", "label"), *zip(NAMES, LABELS, strict=True)]
    with table.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(lines)
    with open_features(path) as opened:
        assert opened.names == tuple(NAMES)
    table.write_text("name,label\na,cat\n")
    with (
        pytest.raises(InputError, match=r"brain.csv, which names .* can't be read"),
        open_features(path),
    ):
        pass


def test_a_disk_that_is_full_at_the_end_leaves_nothing(tmp_path, disk):
    path = tmp_path / "brain.npy"
    np.save(path, features()["fc7"])
    before = {*tmp_path.iterdir()}
    disk.begin()
    compare([path], tmp_path / "whole.npy")
    for made in {*tmp_path.iterdir()} - before:
        made.unlink()
    calls = disk.calls
    assert calls > 4
    for room in range(calls):
        disk.begin(room=room)
        with pytest.raises(Failure, match="give the same command again"):
            compare([path], tmp_path / "rdm.npy")
        assert {*tmp_path.iterdir()} == before


def test_a_layer_is_compared_with_recordings_which_have_another_name(tmp_path):
    pytest.importorskip("zarr")
    path, brain = write(tmp_path / "a.zarr", features()), tmp_path / "v4.npy"
    np.save(brain, features(1)["fc7"])
    found = compare([path, brain], tmp_path / "rdm.npy", layers=["fc7"])
    assert (found.rows, found.columns) == (("a:fc7",), ("v4:v4",))
    every = compare([path, brain], tmp_path / "all.npy")
    assert found.cka.item() == every.cka[every.rows.index("a:fc7"), 0]


@pytest.mark.parametrize("turned", [False, True])
def test_recordings_are_of_the_images_of_the_features_beside_them(
    tmp_path, turned, capsys
):
    """They have no names: their rows are in the order of the features."""
    brain, seen = tmp_path / "brain.npy", features(1)["fc7"]
    np.save(brain, seen.astype(np.float64))
    files = [write(tmp_path / "fc7.npy", {"fc7": features()["fc7"]}), brain]
    files = files[::-1] if turned else files
    found = compare(files, tmp_path / "rdm.npy")
    assert "brain.npy names no image; its rows are taken for" in capsys.readouterr().err
    assert found.names == tuple(NAMES) and found.labels == tuple(LABELS)
    expected = debiased_cka(features()["fc7"], seen)
    assert found.cka.item() == pytest.approx(expected, abs=1e-6)
    np.save(brain, seen[:-1])
    with pytest.raises(InputError, match=r"fc7.npy has 23 images, and .* 22 rows"):
        compare(files, tmp_path / "other.npy")


def test_what_can_t_be_compared_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("zarr")
    path = write(tmp_path / "a.zarr", features())
    output = tmp_path / "rdm.npy"

    def refused(match, *files, **options):
        with pytest.raises(InputError, match=match) as raised:
            compare(files or [path], options.pop("output", output), **options)
        assert "\n" not in str(raised.value)
        assert not list(tmp_path.glob("rdm*"))

    refused(r"no layer fc9: .*a.zarr has conv5, fc7", layers=["fc7", "fc9"])
    refused("must end in .npy or .h5", output=tmp_path / "rdm.txt")
    refused("its folder isn't there", output=tmp_path / "none" / "rdm.npy")
    refused("does not exist", tmp_path / "none.npy")
    refused("must end in .zarr, .h5 or .npy", tmp_path / "a.mat")
    refused("is given twice", path, path)
    np.save(tmp_path / "whole.npy", np.arange(9).reshape(3, 3))
    refused("must hold floating point", tmp_path / "whole.npy")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    refused("can't be read", tmp_path / "broken.npy")
    np.save(tmp_path / "few.npy", np.ones((3, 4)))
    refused("3 images with finite values; comparing takes", tmp_path / "few.npy")
    np.save(tmp_path / "other.npy", features()["fc7"])
    other = NAMES[::-1]
    table = [("name", "label"), *zip(other, LABELS[::-1], strict=True)]
    with (tmp_path / "other.csv").open("w", newline="") as file:
        csv.writer(file).writerows(table)
    refused(
        'image 0 is "dog/0.png" in one and "cat/22.png" in the other',
        path,
        tmp_path / "other.npy",
    )
    (tmp_path / "a.zarr.progress.json").write_text("{}")
    refused("is unfinished", path)
    (tmp_path / "a.zarr.progress.json").unlink()
    monkeypatch.setitem(sys.modules, "zarr", None)
    refused("needs the package zarr")
