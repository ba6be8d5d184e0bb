import json
import pickle

import numpy as np
import pytest

from alexnet_jax.data import decoding
from alexnet_jax.data.loading.pipeline import Pipeline, open_pipeline
from alexnet_jax.data.statistics import PixelSums
from alexnet_jax.runs import run_data, unreadable_images
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runtime.errors import InputError, UnreadableImage
from alexnet_jax.runtime.lock import locked


def opened(folder, on_error="stop") -> Pipeline:
    return open_pipeline(
        source="folder", path=str(folder), size=70, crop=64, on_error=on_error
    )


def names(pipeline, split):
    source = pipeline.dataset.splits[split]
    return [source.name(index) for index in range(len(source))]


def images(pipeline, split):
    source = pipeline.dataset.splits[split]
    return [source[index] for index in range(len(source))]


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def broken(image_folder):
    """Two training images and a validation image that can't be read."""
    paths = [
        image_folder / "train" / "class0" / "train2.png",
        image_folder / "train" / "class1" / "train5.jpg",
        image_folder / "val" / "class1" / "val0.jpg",
    ]
    paths[0].write_bytes(b"")
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    paths[2].write_text("<html>404</html>")
    return paths


def test_whole_images_are_all_used_and_give_the_statistics(workdir, image_folder):
    pipeline = unreadable_images.open_readable(workdir, opened(image_folder))
    assert [len(images(pipeline, s)) for s in ("train", "validation")] == [16, 6]
    sums = PixelSums.zeros(70)
    for file in sorted((image_folder / "train").rglob("*.*")):
        sums.add(decoding.decode(file.read_bytes(), file.name, size=70).image)
    statistics = pipeline.dataset.statistics
    assert statistics is not None
    np.testing.assert_array_equal(statistics.mean, sums.statistics().mean)
    assert list(workdir.iterdir()) == []


def test_all_that_cannot_be_read_is_listed_before_a_step(workdir, image_folder, broken):
    with pytest.raises(UnreadableImage, match="3 of 22 images") as caught:
        unreadable_images.open_readable(workdir, opened(image_folder))
    assert "--config.data.on_error=skip" in str(caught.value)
    listed = (workdir / unreadable_images.UNREADABLE_FILE).read_text()
    assert all(str(path) in listed for path in broken)


def test_skipped_images_stay_left_out_when_they_are_fixed(
    workdir, image_folder, broken
):
    whole = broken[0].with_name("train6.png").read_bytes()
    pipeline = unreadable_images.open_readable(workdir, opened(image_folder, "skip"))
    gone = {path.relative_to(image_folder).as_posix() for path in broken}
    kept = {split: names(pipeline, split) for split in ("train", "validation")}
    assert [len(kept["train"]), len(kept["validation"])] == [14, 5]
    assert not gone & {*kept["train"], *kept["validation"]}
    # A checkpoint fixes the choice, whatever becomes of the files and of on_error.
    (workdir / workdirs.CHECKPOINTS / "1").mkdir(parents=True)
    for path in broken:
        path.write_bytes(whole)
    for on_error in ("stop", "skip"):
        again = unreadable_images.open_readable(workdir, opened(image_folder, on_error))
        assert {s: names(again, s) for s in kept} == kept


def test_an_empty_class_or_split_is_refused(workdir, image_folder):
    for file in (image_folder / "val").rglob("*.*"):
        file.write_bytes(b"no image")
    with pytest.raises(InputError, match="no image of split validation can be read"):
        unreadable_images.open_readable(workdir, opened(image_folder, "skip"))
    for file in (image_folder / "train" / "class1").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(InputError, match="no image of (class class1|split v)") as error:
        unreadable_images.open_readable(workdir, opened(image_folder, "skip"))
    assert "on_error=skip" not in str(error.value)


def test_the_next_image_of_its_class_takes_the_place_of_one_that_broke(
    workdir, image_folder, capsys
):
    pipeline = unreadable_images.open_readable(workdir, opened(image_folder, "skip"))
    before = images(pipeline, "train")
    last, first = (
        names(pipeline, "train").index(f"train/class0/train{n}.jpg") for n in (7, 0)
    )
    (image_folder / "train" / "class0" / "train7.jpg").write_bytes(b"")
    images(pipeline, "train")
    after = images(pipeline, "train")
    assert len(after) == len(before)
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        expected = before[first] if index == last else old
        assert new["label"] == expected["label"]
        np.testing.assert_array_equal(new["image"], expected["image"])
    assert capsys.readouterr().err.count("takes its place") == 1
    # Workers that read are processes, and get the source so.
    copied = pickle.loads(pickle.dumps(pipeline.dataset.splits["train"]))
    assert copied[last]["label"] == before[first]["label"]


def test_a_run_continues_with_changed_validation_images_and_no_others(
    workdir, image_folder, capsys
):
    run_data.note_data(
        workdir, unreadable_images.open_readable(workdir, opened(image_folder))
    )
    (workdir / workdirs.CHECKPOINTS / "1").mkdir(parents=True)
    (image_folder / "val" / "class0" / "val1.jpg").unlink()
    run_data.check_data(workdir, opened(image_folder))
    assert "warning: validation images differ" in capsys.readouterr().err
    changed = image_folder / "train" / "class0" / "train3.jpg"
    changed.write_bytes(changed.read_bytes()[:100])
    with pytest.raises(InputError, match="training files and validation images differ"):
        run_data.check_data(workdir, opened(image_folder))
    run_data.check_data(workdir, opened(image_folder, "skip"))
    changed.unlink()
    with pytest.raises(InputError, match="training images and .* differ"):
        run_data.check_data(workdir, opened(image_folder, "skip"))


def test_a_run_of_before_the_parts_is_compared_as_a_whole(workdir, image_folder):
    pipeline = unreadable_images.open_readable(workdir, opened(image_folder))
    run_data.note_data(workdir, pipeline)
    (workdir / workdirs.CHECKPOINTS / "1").mkdir(parents=True)
    path = workdir / workdirs.DATA_FILE
    known = json.loads(path.read_text())
    del known["parts"]
    path.write_text(json.dumps(known))
    run_data.check_data(workdir, pipeline)
    (image_folder / "val" / "class0" / "val1.jpg").unlink()
    with pytest.raises(InputError, match="the data differ"):
        run_data.check_data(workdir, opened(image_folder))


def test_a_run_in_use_keeps_its_choice(workdir, image_folder, broken):
    unreadable_images.open_readable(workdir, opened(image_folder, "skip"))
    chosen = (workdir / unreadable_images.LEFT_OUT_FILE).read_bytes()
    with locked(workdir, "taken"):
        for on_error in ("stop", "skip"):
            with pytest.raises(InputError, match="is in use"):
                unreadable_images.open_readable(workdir, opened(image_folder, on_error))
    assert (workdir / unreadable_images.LEFT_OUT_FILE).read_bytes() == chosen


def test_all_that_broke_is_listed_when_one_is_met(workdir, image_folder, monkeypatch):
    pipeline = unreadable_images.open_readable(workdir, opened(image_folder))
    for number in (0, 3):
        (image_folder / "val" / "class0" / f"val{number % 3}.jpg").write_bytes(b"")
        (image_folder / "train" / "class1" / f"train{number}.jpg").write_bytes(b"")
    met = UnreadableImage("train0.jpg is not an image")
    assert "3 of 22 images" in str(
        unreadable_images.list_unreadable(workdir, pipeline, met)
    )
    # One of several processes must not read everything while the others wait.
    monkeypatch.setattr(unreadable_images.jax, "process_count", lambda: 2)
    assert unreadable_images.list_unreadable(workdir, pipeline, met) is met
