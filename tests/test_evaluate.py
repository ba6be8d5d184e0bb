import dataclasses
import errno
import json
import os
import shutil

import jax
import numpy as np
import pytest

import alexnet_jax
from alexnet_jax import evaluate as command
from alexnet_jax.data.prepared.preparation import prepare
from alexnet_jax.inference import ensemble, evaluations, inspection, members
from alexnet_jax.inference.trained import open_trained
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runtime.errors import Failure, InputError

import runs
from networks import features_of, logits_of
from references import recount


# Among the slow tests, so that the runs are trained once.
IN_ONE_PROCESS = pytest.mark.xdist_group("two runs")


def trained(folder, seed):
    options = ("steps=6", "validate_steps=3", f"seed={seed}")
    data = ("validation_fraction=0.3", "flip=True")
    return runs.run(
        folder,
        f"run{seed}",
        *(f"--config.train.{option}" for option in options),
        *(f"--config.data.{option}" for option in data),
    )


@pytest.fixture(scope="session")
def first_run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"), 0)


@pytest.fixture(scope="session")
def two_runs(first_run):
    return [first_run, trained(first_run.parent, 1)]


@pytest.mark.parametrize(
    ("views", "members"),
    [
        (1, 1),
        pytest.param(10, 2, marks=pytest.mark.extended),
        pytest.param(10, 1, marks=pytest.mark.slow),
        pytest.param(1, 2, marks=pytest.mark.extended),
    ],
)
def test_the_numbers_equal_a_recount_over_the_predictions(
    request, tmp_path, capsys, views, members
):
    file = tmp_path / "predictions.npz"
    chosen = request.getfixturevalue("two_runs" if members > 1 else "first_run")
    workdirs = chosen if members > 1 else [chosen]
    arguments = [f"--workdir={workdir}" for workdir in workdirs]
    command.main([*arguments, f"--views={views}", f"--predictions={file}"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    with np.load(file, allow_pickle=False) as stored:
        written = dict(stored)
    logits, labels = written["logits"], written["label"]
    examples = len(labels)
    assert logits.shape == (examples, members, views, 10)
    mask = np.ones(examples, bool)
    sums = recount(logits.reshape(examples, -1, 10), labels, mask)
    parts = ("alone", "first") if members > 1 else ()
    assert set(result) == {
        *("split", "examples", "views", "members", "loss"),
        *("top1_error", "top5_error", "checkpoints", *parts),
    }
    for name, chosen in (("alone", slice(1, 2)), ("first", slice(0, 2))):
        if parts:
            assert len(result[name]) == 2
            some = recount(logits[:, chosen].reshape(examples, -1, 10), labels, mask)
            errors = [result[name][1][key] for key in ("top1_error", "top5_error")]
            counts = [some[key] / examples for key in ("top1_error", "top5_error")]
            assert errors == pytest.approx(counts)
            assert result[name][1]["loss"] == pytest.approx(
                some["loss"] / examples, rel=1e-5
            )
    assert result["examples"] == examples == sums["examples"]
    assert (result["views"], result["members"]) == (views, members)
    assert result["loss"] == pytest.approx(sums["loss"] / examples, rel=1e-5)
    assert result["top1_error"] == pytest.approx(sums["top1_error"] / examples)
    assert result["top5_error"] == pytest.approx(sums["top5_error"] / examples)
    votes = np.exp(logits - logits.max(-1, keepdims=True))
    votes = (votes / votes.sum(-1, keepdims=True)).mean(axis=(1, 2))
    np.testing.assert_allclose(written["mean_probabilities"], votes, atol=1e-6)
    assert len(set(written["name"])) == examples


@pytest.mark.extended
@IN_ONE_PROCESS
def test_every_mesh_and_batch_size_gives_the_same_errors(first_run):
    results = [
        ensemble.evaluate([first_run], mesh=mesh, batch_size=batch_size)
        for mesh, batch_size in (((1, 1), 600), ((1, 2), 600), ((2, 1), 250))
    ]
    for result in results[1:]:
        assert result["top1_error"] == results[0]["top1_error"]
        assert result["loss"] == pytest.approx(results[0]["loss"], rel=1e-5)


@pytest.mark.slow
@IN_ONE_PROCESS
@pytest.mark.extended
def test_bfloat16_measures_nearly_the_same(first_run, capsys):
    expected = ensemble.evaluate([first_run])
    command.main([f"--workdir={first_run}", "--dtype=bfloat16"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["dtype"] == "bfloat16"
    assert found["loss"] != expected["loss"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.01)
    assert found["top1_error"] == pytest.approx(expected["top1_error"], abs=0.02)


@pytest.mark.slow
@IN_ONE_PROCESS
def test_what_the_machine_of_the_training_had_is_not_needed(
    first_run, tmp_path, capsys
):
    """Its platform, and worker processes."""
    run = tmp_path / "run"
    shutil.copytree(first_run, run)
    config = json.loads((run / "config.json").read_text())
    config["mesh"]["platform"], config["data"]["workers"] = "cuda", 2
    (run / "config.json").write_text(json.dumps(config))
    command.main([f"--workdir={run}", "--workers=0"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["loss"] == ensemble.evaluate([first_run])["loss"]
    config["mesh"]["data"] = 4
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="; --mesh=1x1 takes one device"):
        command.main([f"--workdir={run}"])


def test_the_best_checkpoint_is_the_one_of_the_lowest_validation_error(first_run):
    steps = runs.checkpoint_steps(first_run)
    best = ensemble.evaluate([first_run])
    assert isinstance(best["checkpoints"], list)
    step = int(best["checkpoints"][0].rsplit(":", 1)[1])
    assert steps[step] == min(error for error in steps.values() if error is not None)
    assert best["top1_error"] == pytest.approx(steps[step])
    latest = ensemble.evaluate([first_run], checkpoint="latest")
    assert isinstance(latest["checkpoints"], list)
    assert latest["checkpoints"][0].endswith(":6")


def test_the_devices_divide_the_towers_of_every_member(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder, towers in zip(folders, (2, 3), strict=True):
        folder.mkdir()
        config = {"data": {}, "model": {"towers": towers}}
        workdirs.write_json(folder / "config.json", config)
    assert members.open_mesh(folders[:1], None).shape["tower"] == 2
    assert members.open_mesh(folders, None).shape["tower"] == 1


@pytest.fixture
def of_photographs(tmp_path, image_folder):
    """A run on a folder of photographs, of which one of each split can't be read."""
    for broken in ("train/class0/train1.jpg", "val/class1/val0.jpg"):
        assert (image_folder / broken).exists()
        (image_folder / broken).write_text("<html>404</html>")
    data = ("source=folder", f"path={image_folder}", "on_error=skip")
    return runs.run(
        tmp_path,
        "run",
        "--config.train.steps=4",
        "--config.train.validate_steps=4",
        *(f"--config.data.{option}" for option in data),
    )


@pytest.mark.slow
def test_what_training_left_out_is_left_out_wherever_the_data_are(
    of_photographs, image_folder
):
    measured = runs.lines(of_photographs)[-1]
    assert measured["split"] == "validation"
    result = ensemble.evaluate([of_photographs])
    assert result["examples"] == 5
    for key in ("loss", "top1_error"):
        assert result[key] == pytest.approx(measured[key], rel=1e-5)
    moved = image_folder.rename(image_folder.with_name("moved"))
    again = ensemble.evaluate([of_photographs], data_path=str(moved))
    assert {**again, "loss": 0} == {**result, "loss": 0}
    train = ensemble.evaluate(
        [of_photographs], data_path=str(moved), split="train", batch_size=5
    )
    assert train["examples"] == 15
    seen = inspection.look(open_trained(of_photographs, "best"), moved)
    assert (len(seen.labels), seen.unreadable) == (5, 0)


@pytest.mark.extended
def test_other_images_are_all_evaluated(of_photographs, image_folder, tmp_path):
    """A file of the name of one that training left out counts in another set."""
    other = tmp_path / "other"
    shutil.copytree(image_folder, other)
    broken, whole = "val/class1/val0.jpg", "val/class1/val1.jpg"
    shutil.copy(image_folder / whole, other / broken)
    (other / "train" / "class0" / "train1.jpg").unlink()
    found = ensemble.evaluate([of_photographs], data_path=str(other))
    assert found["examples"] == 6


@pytest.mark.extended
def test_members_that_left_out_other_images_read_the_same(
    of_photographs, image_folder, tmp_path
):
    """One begins when another validation file is damaged."""
    (image_folder / "val" / "class0" / "val1.jpg").write_text("<html>404</html>")
    data = ("source=folder", f"path={image_folder}", "on_error=skip")
    later = runs.run(
        tmp_path,
        "later",
        "--config.train.steps=1",
        *(f"--config.data.{option}" for option in data),
    )
    for order in ([of_photographs, later], [later, of_photographs]):
        assert ensemble.evaluate(order)["examples"] == 4


@pytest.mark.extended
def test_data_of_another_size_are_refused(image_folder, tmp_path):
    for size in (77, 70):
        prepare(
            source="folder",
            input_path=str(image_folder),
            output=tmp_path / str(size),
            size=size,
            workers=1,
        )
    data = ("source=prepared", f"path={tmp_path / '77'}")
    workdir = runs.run(
        tmp_path,
        "run",
        "--config.train.steps=1",
        *(f"--config.data.{option}" for option in data),
    )
    with pytest.raises(InputError, match="stored at 77 pixels .* stored at 70"):
        ensemble.evaluate([workdir], data_path=str(tmp_path / "70"))


@pytest.mark.extended
def test_without_flips_in_training_the_ten_views_are_five(tmp_path, capsys):
    few = "--config.data.validation_fraction=0.3"
    workdir = runs.run(tmp_path, "run", "--config.train.steps=1", few)
    result = ensemble.evaluate([workdir], views=10)
    assert result["views"] == 5
    assert "five views" in capsys.readouterr().err


def test_load_gives_the_network_without_a_mesh(first_run, tmp_path):
    model, variables, preprocess, class_names = alexnet_jax.load(first_run)
    assert class_names == tuple("0123456789")
    file = tmp_path / "predictions.npz"
    ensemble.evaluate([first_run], predictions=file)
    with np.load(file) as stored:
        written = dict(stored)
    pipeline = members.open_data(open_trained(first_run, "best"), None)
    source = pipeline.dataset.splits["validation"]
    images = preprocess([source[index]["image"] for index in range(5)])
    assert images.shape == (5, 67, 67, 3)
    assert logits_of(model, variables, preprocess([])).shape == (0, 10)
    logits, features = features_of(model, variables, images, ("conv5", "fc7"))
    np.testing.assert_allclose(
        logits, written["logits"][:5, 0, 0], rtol=1e-4, atol=1e-5
    )
    assert features["fc7"].shape == (5, 12)
    assert features["conv5"].shape == (5, 3, 3, 8)
    devices = {leaf.devices().pop() for leaf in jax.tree.leaves(variables)}
    assert devices == {jax.devices()[0]}
    # One name is enough, as of images.
    _, alone = features_of(model, variables, images, "fc7")
    assert set(alone) == {"fc7"}
    np.testing.assert_array_equal(alone["fc7"], features["fc7"])


def test_load_takes_a_step_in_any_form_and_only_a_work_directory(first_run, tmp_path):
    loaded = [alexnet_jax.load(str(first_run), step) for step in (6, "6", np.int64(6))]
    for other in loaded[1:]:
        jax.tree.map(
            np.testing.assert_array_equal, other.variables, loaded[0].variables
        )
    for checkpoint in ("newest", True):
        with pytest.raises(InputError, match="must be best, latest or a step"):
            open_trained(first_run, checkpoint)
    for inside in ("checkpoints", "checkpoints/6"):
        with pytest.raises(InputError, match="is a part of the work directory .*run0"):
            alexnet_jax.load(first_run / inside)
    with pytest.raises(InputError, match="is not a work directory"):
        alexnet_jax.load(tmp_path / "nothing")


@pytest.mark.slow
def test_a_disk_without_room_for_predictions_loses_no_result(
    first_run, tmp_path, monkeypatch, capsys
):
    workdir = shutil.copytree(first_run, tmp_path / "run")
    (workdir / "evaluation.jsonl").unlink(missing_ok=True)

    def full(file, **arrays):
        file.write(b"PK")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    file = tmp_path / "p.npz"
    with pytest.raises(Failure, match=r"p.npz can't be written \(No space left"):
        command.main([f"--workdir={workdir}", f"--predictions={file}"])
    (result,) = evaluations.read_evaluations(workdir)
    printed = json.loads(capsys.readouterr().out)
    assert printed["top1_error"] == result["top1_error"]
    assert not [*tmp_path.glob("p.npz*")]


@pytest.mark.slow
def test_what_is_measured_is_kept(two_runs, tmp_path, capsys):
    """Of an ensemble in the first work directory; on a disk that can't be written, a
    line says so, and the result is printed all the same."""
    workdir = shutil.copytree(two_runs[0], tmp_path / "run")
    kept = workdir / "evaluation.jsonl"
    # Of other tests.
    kept.unlink(missing_ok=True)
    command.main([f"--workdir={workdir}", "--checkpoint=latest"])
    with kept.open("ab") as file:
        file.write(b'{"cut": ')
    command.main([f"--workdir={workdir}", f"--workdir={two_runs[1]}"])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    results = evaluations.read_evaluations(workdir)
    environments = [result.pop("environment") for result in results]
    assert results == printed
    assert [result["members"] for result in results] == [1, 2]
    for environment in environments:
        assert isinstance(environment, dict)
        assert {"time", "command", "versions", "commit"} <= set(environment)
    assert len(kept.read_bytes().splitlines()) == 3
    kept.unlink()
    kept.mkdir()
    command.main([f"--workdir={workdir}", "--checkpoint=latest"])
    out, err = capsys.readouterr()
    again = json.loads(out)
    # The same program compiled twice may round otherwise.
    assert again["checkpoints"] == printed[0]["checkpoints"]
    assert again["loss"] == pytest.approx(printed[0]["loss"], rel=1e-5)
    assert f"warning: {kept} can't be written" in err


def test_preprocess_takes_files_images_and_arrays(first_run, tmp_path, photographs):
    from PIL import Image

    _, _, preprocess, _ = alexnet_jax.load(first_run)
    image = Image.fromarray(photographs[0])
    image.save(tmp_path / "image.png")
    turned = image.rotate(90, expand=True)
    turned.getexif()[0x0112] = 6
    images = preprocess([tmp_path / "image.png", image, photographs[0], turned])
    # Turned after resizing, which rounds after its first direction.
    np.testing.assert_allclose(images[0], images[3], atol=1)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])
    with pytest.raises(InputError, match="nothing.png is not a file"):
        preprocess([tmp_path / "nothing.png"])


@pytest.mark.parametrize(
    ("change", "views", "message"),
    [
        ({"class_names": tuple("012345678x")}, 1, "class 9 is 9 in one and x in the"),
        ({"class_names": tuple("012345678")}, 1, "class 9 is 9 in one and None in the"),
        ({"size": 78}, 1, "images stored at 77 and at 78 pixels"),
        ({"crop": 69}, 1, "crops of 67 and of 69 pixels"),
        ({"mean": 1.0}, 1, "another mean image is subtracted"),
        ({"flip": False}, 10, "one was trained with horizontal flips and one without"),
    ],
)
def test_runs_that_differ_make_no_ensemble(
    first_run, tmp_path, monkeypatch, change, views, message
):
    both = [first_run, shutil.copytree(first_run, tmp_path / "other")]

    def opened(workdir, checkpoint, dtype):
        member = open_trained(workdir, checkpoint, dtype)
        if workdir == first_run:
            return member
        data, config = member.data, dict(member.config)
        for name, value in change.items():
            if name == "flip":
                config["data"] = {**config["data"], "flip": value}
            elif name == "mean":
                moved = dataclasses.replace(
                    data.statistics, mean=data.statistics.mean + value
                )
                data = dataclasses.replace(data, statistics=moved)
            else:
                data = dataclasses.replace(data, **change)
        return dataclasses.replace(member, data=data, config=config)

    monkeypatch.setattr(members, "open_trained", opened)
    with pytest.raises(InputError, match=message) as caught:
        ensemble.evaluate(both, views=views)
    for workdir in both:
        assert str(workdir) in str(caught.value)


def test_what_is_missing_is_named(first_run, tmp_path):
    with pytest.raises(InputError, match="is not a work directory"):
        ensemble.evaluate([tmp_path])
    with pytest.raises(InputError, match="must be best, latest or a step"):
        ensemble.evaluate([first_run], checkpoint="newest")
    with pytest.raises(InputError, match="no checkpoint of step 5"):
        ensemble.evaluate([first_run], checkpoint="5")
    with pytest.raises(InputError, match="--batch_size=7 does not divide"):
        ensemble.evaluate([first_run], mesh=(2, 1), batch_size=7)
    with pytest.raises(InputError, match="its folder isn't there"):
        ensemble.evaluate([first_run], predictions=tmp_path / "no" / "p.npz")
    (tmp_path / "p.npz").write_text("mine")
    with pytest.raises(InputError, match="p.npz exists already; choose another --pred"):
        ensemble.evaluate([first_run], predictions=tmp_path / "p.npz")
    with pytest.raises(InputError, match="--batch_size=0 must be at least 1"):
        ensemble.evaluate([first_run], batch_size=0)
    (tmp_path / "config.json").write_text((first_run / "config.json").read_text())
    with pytest.raises(InputError, match="no checkpoint in"):
        ensemble.evaluate([tmp_path])
