import io
import json

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import moments, pictures, prepare, sources
from alexnet_jax.errors import InputError


def open_folder(path, size=64, validation_fraction=0.25):
    return sources.open_dataset(
        source="folder",
        path=str(path),
        size=size,
        validation_fraction=validation_fraction,
    )


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def test_a_folder_gives_every_picture_once_with_its_class(picture_folder):
    dataset = open_folder(picture_folder)
    assert dataset.class_names == ("class0", "class1")
    train, held_out = dataset.splits["train"], dataset.splits["validation"]
    assert (len(train), len(held_out)) == (16, 6)
    names = [train.name(index) for index in range(16)]
    assert len(set(names)) == 16
    for index, name in enumerate(names):
        example = train[index]
        assert example["image"].shape == (64, 64, 3)
        assert f"class{example['label']}" in name


def test_the_short_side_is_resized_and_the_centre_cut(photographs):
    photograph = photographs[0]
    cut = np.asarray(pictures.square(Image.fromarray(photograph), 64))
    height, width = photograph.shape[:2]
    whole = Image.fromarray(photograph).resize(
        (round(width * 64 / height), 64), Image.Resampling.BICUBIC
    )
    left = (whole.width - 64) // 2
    np.testing.assert_array_equal(cut, np.asarray(whole)[:, left : left + 64])
    tall = np.asarray(pictures.square(Image.fromarray(photograph.swapaxes(0, 1)), 64))
    assert tall.shape == (64, 64, 3)


def test_every_kind_of_picture_becomes_rgb(tmp_path, photographs):
    square = Image.fromarray(photographs[0][:96, :96])
    expected = np.asarray(square).astype(float)

    def read(name):
        return pictures.decode((tmp_path / name).read_bytes(), name, size=96)

    for mode in ("CMYK", "P", "L"):
        name = f"{mode}.tif"
        square.convert(mode).save(tmp_path / name)
        assert read(name).shape == (96, 96, 3)
    grey = read("L.tif")
    assert (grey[..., 0] == grey[..., 1]).all()
    assert np.abs(read("CMYK.tif") - expected).mean() < 2
    turned = square.rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read("turned.png"), expected)
    deep = (np.asarray(square.convert("L")).astype(np.uint16) << 8) + 77
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read("deep.png"), grey)
    Image.fromarray(np.ones((96, 96), np.float32)).save(tmp_path / "real.tif")
    with pytest.raises(InputError, match=r"real.tif .*no known range"):
        read("real.tif")
    clear = square.convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    assert (read("clear.png") == 255).all()


def test_without_a_validation_folder_a_part_of_each_class_is_held_out(tmp_path):
    for label in "ab":
        for number in range(8):
            save(tmp_path / label / f"{number}.png", np.zeros((9, 9, 3), np.uint8))
    dataset = open_folder(tmp_path, size=8)
    members = {
        split: {source.name(index) for index in range(len(source))}
        for split, source in dataset.splits.items()
    }
    assert len(members["validation"]) == 4
    assert not members["train"] & members["validation"]
    assert {name[0] for name in members["validation"]} == {"a", "b"}
    again = open_folder(tmp_path, size=8)
    assert again.fingerprint == dataset.fingerprint
    assert again.splits == dataset.splits


def test_the_fingerprint_tells_other_pictures(tmp_path):
    for label in "ab":
        for number in range(4):
            save(tmp_path / label / f"{number}.png", np.zeros((9, 9, 3), np.uint8))
    before = open_folder(tmp_path, size=8).fingerprint
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    save(tmp_path / "a" / "0.png", noise)
    assert open_folder(tmp_path, size=8).fingerprint != before


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no class folders"):
        open_folder(tmp_path)
    save(tmp_path / "a" / "0.png", np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match="class folder .*/b has no pictures"):
        open_folder(tmp_path)
    save(tmp_path / "b" / "0.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(InputError, match="class a has 1 pictures, too few"):
        open_folder(tmp_path)
    (tmp_path / "b" / "0.png").write_bytes(b"no picture")
    save(tmp_path / "a" / "1.png", np.zeros((9, 9, 3), np.uint8))
    save(tmp_path / "b" / "1.png", np.zeros((9, 9, 3), np.uint8))
    cut = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)
    Image.fromarray(noise).save(cut, "png")
    with pytest.raises(InputError, match=r"cut.png can't be read as a picture"):
        pictures.decode(cut.getvalue()[:9000], "cut.png", size=8)
    dataset = open_folder(tmp_path, size=8)
    members = [*dataset.splits["train"].files, *dataset.splits["validation"].files]
    broken = sources.FolderSource(tmp_path, tuple(members), 8)
    with pytest.raises(InputError, match=r"b/0.png is not a picture"):
        [broken[index] for index in range(len(broken))]


def test_validation_classes_must_be_among_the_training_classes(tmp_path):
    for name in ("train/a", "val/a", "val/z"):
        save(tmp_path / name / "0.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(InputError, match="classes that .*/train lacks: z"):
        open_folder(tmp_path)


def test_a_link_to_nowhere_is_no_picture_and_validation_needs_train(tmp_path):
    for number in range(3):
        save(tmp_path / "a" / f"{number}.png", np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "nowhere.png")
    assert len(open_folder(tmp_path, size=8).splits["train"]) == 2
    (tmp_path / "val").mkdir()
    with pytest.raises(InputError, match="a val folder but none of train"):
        open_folder(tmp_path, size=8)


def test_the_digits_are_those_of_scikit_learn_and_split_once():
    from sklearn.datasets import load_digits

    dataset = sources.open_dataset(
        source="digits", path=None, size=72, validation_fraction=0.2
    )
    train, held_out = dataset.splits["train"], dataset.splits["validation"]
    names = [s.name(i) for s in (train, held_out) for i in range(len(s))]
    assert sorted(map(int, names)) == list(range(1797))
    assert len(held_out) == 359
    digits = load_digits()
    for index in (0, 100, 358):
        example, place = held_out[index], int(held_out.name(index))
        assert example["label"] == digits.target[place]
        blocks = example["image"][:, :, 0].reshape(8, 9, 8, 9).mean(axis=(1, 3))
        correlation = np.corrcoef(blocks.ravel(), digits.images[place].ravel())[0, 1]
        assert correlation > 0.97


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_prepared_set_gives_back_the_pictures(tmp_path, picture_folder, encoding):
    prepare.prepare(
        source="folder",
        input_path=picture_folder,
        output=tmp_path / "out",
        encoding=encoding,
        size=64,
    )
    original = open_folder(picture_folder)
    prepared = sources.open_dataset(
        source="prepared", path=str(tmp_path / "out"), size=1, validation_fraction=0.5
    )
    assert prepared.class_names == original.class_names
    for split in ("train", "validation"):
        source, reference = prepared.splits[split], original.splits[split]
        assert len(source) == len(reference)
        by_name = {reference.name(i): reference[i] for i in range(len(reference))}
        seen = set()
        for index in range(len(source)):
            example, expected = source[index], by_name[source.name(index)]
            seen.add(source.name(index))
            assert example["label"] == expected["label"]
            error = np.abs(example["image"].astype(float) - expected["image"]).mean()
            assert error == 0 if encoding == "raw" else error < 6
        assert seen == set(by_name)


def test_mean_and_colours_equal_numpy_on_the_whole_set(tmp_path, picture_folder):
    output = tmp_path / "out"
    prepare.prepare(source="folder", input_path=picture_folder, output=output, size=64)
    train = open_folder(picture_folder).splits["train"]
    whole = np.stack([train[i]["image"] for i in range(len(train))]).astype(float)
    statistics = moments.load_statistics(
        output, json.loads((output / "dataset.json").read_text())
    )
    np.testing.assert_allclose(statistics.mean, whole.mean(axis=0), rtol=1e-6)
    covariance = np.cov(whole.reshape(-1, 3).T, bias=True)
    turned = statistics.directions @ np.diag(statistics.deviations**2)
    turned = turned @ statistics.directions.T
    np.testing.assert_allclose(turned, covariance, rtol=1e-6)
    assert (np.diff(statistics.deviations) >= 0).all()


def test_preparing_gives_the_same_bytes_whatever_the_threads(tmp_path, picture_folder):
    contents = []
    for threads in (1, 4):
        output = tmp_path / f"out{threads}"
        prepare.prepare(
            source="folder",
            input_path=picture_folder,
            output=output,
            size=64,
            threads=threads,
        )
        contents.append({f.name: f.read_bytes() for f in sorted(output.iterdir())})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {
        "dataset.json",
        "mean.npy",
        "train-00000-of-00001.array_record",
        "validation-00000-of-00001.array_record",
    }


def test_grey_pictures_have_no_negative_eigenvalue():
    rng = np.random.default_rng(0)
    grey = [rng.integers(0, 256, (9, 9, 1), np.uint8).repeat(3, 2) for _ in range(5)]
    statistics = moments.measure(grey, 9)
    assert np.isfinite(statistics.deviations).all()
    assert (statistics.deviations >= 0).all()


def test_what_is_wrong_with_a_prepared_set_is_named(tmp_path, picture_folder):
    def opened(path):
        return sources.open_dataset(
            source="prepared", path=path, size=1, validation_fraction=0.5
        )

    output = tmp_path / "out"
    with pytest.raises(InputError, match="alexnet_jax.prepare --source=folder"):
        opened(None)
    with pytest.raises(InputError, match=f"alexnet_jax.prepare .*--output={output}"):
        opened(str(output))
    prepare.prepare(source="folder", input_path=picture_folder, output=output, size=64)
    with pytest.raises(InputError, match="is there already"):
        prepare.prepare(
            source="folder", input_path=picture_folder, output=output, size=64
        )
    description = json.loads((output / "dataset.json").read_text())
    newer = {**description, "format_version": 99}
    (output / "dataset.json").write_text(json.dumps(newer))
    with pytest.raises(InputError, match="format 99, newer than the 1"):
        opened(str(output))
    (output / "dataset.json").write_text(json.dumps(description)[:50])
    with pytest.raises(InputError, match="is damaged"):
        opened(str(output))
    (output / "dataset.json").write_text(json.dumps(description))
    (output / "mean.npy").rename(tmp_path / "mean.npy")
    with pytest.raises(InputError, match="mean.npy is missing"):
        opened(str(output))
    (tmp_path / "mean.npy").rename(output / "mean.npy")
    (output / description["shards"]["train"][0]["file"]).unlink()
    with pytest.raises(InputError, match="train-00000.* is missing"):
        opened(str(output))


def test_an_unreadable_picture_stops_the_preparation_and_leaves_nothing(
    tmp_path, picture_folder
):
    (picture_folder / "train" / "class1" / "broken.jpg").write_bytes(b"\xff\xd8 no")
    with pytest.raises(
        InputError, match=r"class1/broken.jpg (is not|can't be read as) a picture"
    ):
        prepare.prepare(
            source="folder", input_path=picture_folder, output=tmp_path / "out", size=64
        )
    assert not (tmp_path / "out").exists()


def test_unknown_sources_and_fractions():
    with pytest.raises(InputError, match="choose from digits, folder, prepared"):
        sources.open_dataset(source="tape", path=None, size=8, validation_fraction=0.1)
    with pytest.raises(InputError, match="between 0 and 1"):
        sources.open_dataset(
            source="digits", path=None, size=8, validation_fraction=1.0
        )
    with pytest.raises(InputError, match="no meaning for the digits"):
        sources.open_dataset(source="digits", path="x", size=8, validation_fraction=0.1)
