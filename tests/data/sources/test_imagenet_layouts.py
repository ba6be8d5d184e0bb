import functools
import hashlib
import shutil

import pytest

from alexnet_jax.data.encoded import EncodedSource
from alexnet_jax.data.sources import imagenet_classes

import archives
import forms


opened = functools.partial(forms.opened, "imagenet")
refused = functools.partial(forms.refused, "imagenet")


def listing(dataset):
    """Every example's name and WNID, by split."""
    return {
        split: [
            (source.name(i), dataset.class_ids[source.label(i)])
            for i in range(len(source))
        ]
        for split, source in dataset.splits.items()
    }


EXPECTED = {
    split: [(photo.name, photo.wnid) for photo in members]
    for split, members in forms.photos().items()
}


def test_the_thousand_classes_are_known():
    words = imagenet_classes.words()
    assert len(words) == 1000
    assert list(words) == sorted(words)
    for wnid, (_, readable) in archives.WNIDS.items():
        assert words[wnid] == readable
    # As the Hub names them: readable, and one of two equal names numbered.
    hub = [f"{w}2" if k == "n03126707" else w for k, w in words.items()]
    assert imagenet_classes.class_ids(hub) == tuple(words)
    assert imagenet_classes.class_ids(list(words)) == tuple(words)
    assert imagenet_classes.class_ids(["cat", "dog"]) == ("cat", "dog")


@pytest.mark.parametrize("given", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
def test_kaggle_s_tree_is_known_from_any_of_its_folders(tmp_path, given):
    forms.kaggle(tmp_path)
    dataset = opened(tmp_path / given)
    assert listing(dataset) == EXPECTED
    (note,) = dataset.notes
    assert "training images in class folders in train; validation images flat" in note
    assert note.endswith("in val, classes from LOC_val_solution.csv")
    assert dataset.class_names[0] == "tench, Tinca tinca"


@pytest.mark.parametrize("packed", [True, False])
def test_the_hub_s_older_archives(tmp_path, packed):
    forms.hub_archives(tmp_path, packed=packed)
    dataset = opened(tmp_path)
    found = listing(dataset)
    for split, members in forms.photos().items():
        source = dataset.splits[split]
        assert isinstance(source, EncodedSource)
        assert source.recommends_preparing == packed
        named = {name: index for index, (name, _) in enumerate(found[split])}
        assert len(named) == len(members)
        for photo in members:
            stem = photo.name.rpartition("/")[2].removesuffix(".JPEG")
            index = named[f"{stem}_{photo.wnid}.JPEG"]
            assert found[split][index][1] == photo.wnid
            assert source.encoded(index).data == photo.data
    assert "training images in train_images_0.tar" in dataset.notes[0]
    first, second = sorted(tmp_path.glob("train_images_*"))[:2]
    apart = second.with_name(second.name.replace("images_1", "images_3"))
    second.rename(apart)
    said = f"beside {first.name} number 1, 2 is not there"
    assert any(said in note for note in opened(tmp_path).notes)
    apart.rename(second)
    if packed:
        part = tmp_path / "train_images_1.tar.gz"
        part.write_bytes(part.read_bytes()[:-2000])
        assert "train_images_1.tar.gz is cut off or damaged" in refused(tmp_path)


@pytest.mark.parametrize("form", ["archives", "class folders", "bare"])
def test_training_images_alone_are_enough(tmp_path, form):
    """What is missing is one line; a part of each class is held out, the same of every
    form."""
    root = tmp_path / "in"
    if form == "archives":
        forms.tars(root)
        (root / "ILSVRC2012_img_val.tar").unlink()
    else:
        forms.class_folders(root)
        shutil.rmtree(root / "val")
        root = root / "train" if form == "bare" else root
    dataset = opened(root)
    (note,) = dataset.notes
    assert "there are no validation images (ILSVRC2012_img_val.tar, or a" in note
    found = listing(dataset)
    assert sorted(found["train"] + found["validation"]) == EXPECTED["train"]
    assert [wnid for _, wnid in found["validation"]] == sorted(forms.WNIDS * 2)
    # Those of each class whose names have the smallest hashes.
    of_first = [name for name, wnid in EXPECTED["train"] if wnid == forms.WNIDS[0]]
    of_first.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    assert {name for name, _ in found["validation"][:2]} == set(of_first[:2])


def test_training_archive_without_its_devkit(tmp_path):
    """With the classes of the package: the archive must have all thousand."""
    forms.tars(tmp_path)
    (tmp_path / "ILSVRC2012_img_val.tar").unlink()
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    assert "lacks 995 of 1000 classes' archives" in refused(tmp_path)
    inner = {
        f"{wnid}.tar": archives.tar({f"{wnid}_{n}.JPEG": b"x" for n in range(2)})
        for wnid in imagenet_classes.words()
    }
    train = tmp_path / "ILSVRC2012_img_train.tar"
    train.write_bytes(archives.tar(inner))
    dataset = opened(tmp_path)
    assert dict(zip(dataset.class_ids, dataset.class_names, strict=True)) == (
        imagenet_classes.words()
    )
    train.write_bytes(archives.tar({**inner, "n99999999.tar": archives.tar({})}))
    assert "n99999999.tar, which is no class of ILSVRC 2012" in refused(tmp_path)


def test_a_training_archive_with_a_folder_of_validation_images(tmp_path):
    forms.tars(tmp_path)
    forms.class_folders(tmp_path)
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "ILSVRC2012_img_val.tar").unlink()
    assert listing(opened(tmp_path)) == EXPECTED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[:-2],
            "20 images where LOC_val_solution.csv has the classes",
        ),
        (lambda rows: rows[:-1], "(1 have no class, the first ILSVRC2012_val_0000"),
        (
            lambda rows: [*rows, "ILSVRC2012_val_00000077,n01440764 1 2 3 4"],
            "(1 are not there, the first number 77); fetch both again",
        ),
        (lambda rows: [*rows, "cat,dog"], "line 22, is no validation image and its"),
        (
            lambda rows: [r.replace("n01440764", "n02100583") for r in rows],
            "has classes that train lacks: n02100583; to leave out",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_named(tmp_path, change, message):
    forms.kaggle(tmp_path)
    table = tmp_path / "LOC_val_solution.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join(change(rows)))
    assert message in refused(tmp_path)


def test_caffe_s_list_that_does_not_fit_is_named(tmp_path):
    forms.caffe(tmp_path)
    listed = tmp_path / "val.txt"
    whole = listed.read_text()
    for bad in ("ILSVRC2012_val_00000001.JPEG 1000", "ILSVRC2012_val_00000001.JPEG x"):
        listed.write_text(f"{whole}\n{bad}\n")
        assert f"{listed}, line 21, is no validation image and its" in refused(tmp_path)
    listed.write_text("")
    assert "20 images where val.txt has the classes of 0 (20 have no" in refused(
        tmp_path
    )
    listed.unlink()
    message = refused(tmp_path)
    assert "lacks ILSVRC2012_devkit_t12.tar.gz, which has the classes of" in message
    assert "LOC_val_solution.csv or Caffe's val.txt" in message


def test_classes_of_one_split_are_left_out_by_choice(tmp_path):
    """As of a part of the classes, with all validation images."""
    forms.kaggle(tmp_path)
    train = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "train"
    shutil.rmtree(train / "n01440764")
    (train / "n02100583").mkdir()
    (train / "n02100583" / "0.JPEG").write_bytes(b"x")
    assert "has classes that train lacks: n01440764; to leave out" in refused(tmp_path)
    dataset = opened(tmp_path, other_classes="skip")
    kept = sorted(set(forms.WNIDS) - {"n01440764"})
    assert dataset.class_ids == tuple(kept)
    assert listing(dataset) == {
        split: [(name, wnid) for name, wnid in members if wnid in kept]
        for split, members in EXPECTED.items()
    }
    assert dataset.left_out == {"of classes that only one split has": 1 + 4}


def test_of_two_devkits_the_one_of_the_year_is_taken(tmp_path):
    forms.tars(tmp_path)
    other = tmp_path / "ILSVRC2010_devkit-1.0.tar.gz"
    other.write_bytes(archives.devkit("2010"))
    third = tmp_path / "ILSVRC2012_devkit_t3.tar.gz"
    third.write_bytes(b"of another task")
    dataset = opened(tmp_path)
    assert listing(dataset) == EXPECTED
    chosen, year, _ = dataset.notes
    assert "ILSVRC2012_devkit_t12.tar.gz is taken, and not ILSVRC2012_dev" in chosen
    assert "is taken, that of the year 2012, and not ILSVRC2010_devkit-1.0" in year


def test_what_a_browser_numbers_is_known(tmp_path):
    forms.tars(tmp_path)
    validation = tmp_path / "ILSVRC2012_img_val.tar"
    whole = validation.read_bytes()
    second = tmp_path / "ILSVRC2012_img_val (1).tar"
    validation.rename(second)
    assert listing(opened(tmp_path)) == EXPECTED
    validation.write_bytes(whole)
    dataset = opened(tmp_path)
    assert listing(dataset) == EXPECTED
    assert (
        "img_val.tar is taken, and not ILSVRC2012_img_val (1).tar" in dataset.notes[0]
    )
    # One of them is cut off.
    validation.write_bytes(whole[:-10240])
    message = refused(tmp_path)
    assert f"ILSVRC2012_img_val.tar of {len(whole) - 10240} bytes" in message
    assert "move all but the right one out of the folder" in message


def test_archives_whose_members_begin_with_a_dot(tmp_path):
    forms.tars(tmp_path)
    held_out = {f"./{p.name}": p.data for p in forms.photos()["validation"]}
    held_out["./._ILSVRC2012_val_00000001.JPEG"] = b"\0\5\26\7"
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(archives.tar(held_out))
    dataset = opened(tmp_path)
    assert listing(dataset) == EXPECTED
    assert dataset.left_out == {"hidden": 1}
