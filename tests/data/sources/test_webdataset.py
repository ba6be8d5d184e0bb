import functools
import json
import shutil
from pathlib import Path

import pytest

import archives
import forms


GENUINE = Path(__file__).with_name("genuine") / "webdataset"


opened = functools.partial(forms.opened, "webdataset", fraction=0.5)
refused = functools.partial(forms.refused, "webdataset", fraction=0.5)


def listing(dataset):
    """The name and class of every image of both splits."""
    return sorted(
        (source.name(n), dataset.class_ids[source.label(n)])
        for source in dataset.splits.values()
        for n in range(len(source))
    )


def test_what_the_library_webdataset_writes_is_read():
    """See `write_genuine.py`: one shard; one image of each class is held out."""
    dataset = opened(GENUINE)
    assert listing(dataset) == [(f"spot{n}.png", str(n % 3)) for n in (0, 1, 3, 4)]
    assert {s: len(x) for s, x in dataset.splits.items()} == {
        "train": 2,
        "validation": 2,
    }
    for source in dataset.splits.values():
        for index in range(2):
            number = int(source.name(index)[4])
            assert source[index]["image"][0, 0].tolist() == [5 * number, 100, 200]
            row = [0, 1, 3, 4].index(number)
            place = f"spots-train-000.tar, row {row}: spot{number}.png"
            assert source.where(index) == f"{GENUINE}/{place}"


PHOTOS = sorted((p.name, p.wnid) for part in forms.photos().values() for p in part)


@pytest.mark.parametrize("label", ["number", "text", "json"])
def test_classes_are_numbers_or_text_in_a_file_or_json(tmp_path, label):
    forms.webdataset(tmp_path, label=label)
    dataset = opened(tmp_path)
    assert listing(dataset) == PHOTOS
    assert dataset.class_names[0] == "tench, Tinca tinca"
    assert dataset.left_out == {}


def test_wnids_in_names_name_the_classes(tmp_path):
    """As timm's copy of ImageNet has them: flat names, and no list."""
    inside = {}
    for number, wnid in enumerate(forms.WNIDS):
        for n in range(2):
            inside[f"{wnid}_{n}.jpg"] = b"x"
            inside[f"{wnid}_{n}.cls"] = str(number).encode()
            inside[f"{wnid}_{n}.json"] = b"{}"
    (tmp_path / "train-0.tar").write_bytes(archives.tar(inside))
    dataset = opened(tmp_path)
    assert dataset.class_ids == tuple(forms.WNIDS)
    assert dataset.class_names[0] == "tench, Tinca tinca"


def test_a_pattern_of_shards(tmp_path):
    for number in range(11):
        inside = {}
        for n in range(2):
            inside[f"{number}_{n}.png"] = b"x"
            inside[f"{number}_{n}.cls"] = str(n).encode()
        (tmp_path / f"{number:03d}.tar").write_bytes(archives.tar(inside))
    dataset = opened(tmp_path / "{000..009}.tar")
    assert sum(len(source) for source in dataset.splits.values()) == 20
    message = refused(tmp_path / "{000..012}.tar")
    assert "2 of the 13 files of" in message
    assert message.endswith("are not there, the first " + str(tmp_path / "011.tar"))


def test_names_that_shards_share_are_made_of_shard_and_row(tmp_path):
    for number in range(2):
        inside = {"0.jpg": b"x", "0.cls": b"1", "1.jpg": b"x", "1.cls": b"0"}
        (tmp_path / f"train-{number}.tar").write_bytes(archives.tar(inside))
    assert listing(opened(tmp_path)) == [
        (f"train/train-{shard}.tar/{row}", str(1 - row))
        for shard in range(2)
        for row in range(2)
    ]


def write(path, **members):
    """A shard of two samples, `0` and `1`, with these members."""
    inside = {
        f"{n}.{ending.replace('_', '.')}": data
        for n in range(2)
        for ending, data in members.items()
    }
    path.write_bytes(archives.tar(inside))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"jpg": b"x"}, "train.tar: 0 has no class: it has jpg, and the class is"),
        ({"jpg": b"x", "json": b"{}"}, "0.json has no label (KeyError('label')); say"),
        ({"jpg": b"x", "json": b"[1"}, "0.json has no label"),
        ({"jpg": b"x", "json": b'{"label": 1.5}'}, "0 has the class 1.5, neither"),
        ({"jpg": b"x", "cls": b""}, "0 has the class '', neither number nor text"),
        ({"jpg": b"x", "cls": b"\xff"}, "0.cls is not text"),
        ({"jpg": b"x", "png": b"x", "cls": b"1"}, "has several images (jpg, png); say"),
        ({"cls": b"1"}, "has no sample with an image"),
        ({"jpg": b"x", "cls": b"7" * 2**21}, "0.cls has 2097152 bytes; refused"),
        (
            {"jpg": b"x", "cls": b"52345678901"},
            "has the label 52345678901, which is no",
        ),
    ],
)
def test_samples_without_an_image_or_a_class(tmp_path, members, message):
    write(tmp_path / "train.tar", **members)
    assert message in refused(tmp_path)


def test_keys_say_which_members_are_meant(tmp_path):
    about = json.dumps({"id": "b", "label": 3}).encode()
    members = {"jpg": b"x", "seg_png": b"x", "txt": b"a", "json": about}
    write(tmp_path / "train-0.tar", **members)
    write(tmp_path / "train-1.tar", **{**members, "json": b'{"id": "c"}', "txt": b"d"})
    assert opened(tmp_path, label_key="txt").class_names == ("a", "d")
    dataset = opened(tmp_path, label_key="id", image_key="seg.png")
    assert dataset.class_names == ("b", "c")
    assert dataset.left_out == {}


def test_what_is_left_out_is_counted(tmp_path):
    inside = {"README": b"x", "._0.jpg": b"x"}
    for n in range(4):
        inside |= {f"./d/{n}.jpg": b"x", f"./d/{n}.cls": b"%d" % (n % 2)}
    inside |= {"alone.cls": b"1"}
    (tmp_path / "train.tar").write_bytes(archives.tar(inside))
    (tmp_path / "about.md").write_text("x")
    dataset = opened(tmp_path)
    assert [name for name, _ in listing(dataset)] == [f"d/{n}.jpg" for n in range(4)]
    assert dataset.left_out == {
        ".md": 1,
        "members that are no part of a sample": 2,
        "samples without an image": 1,
    }


def test_damaged_shards_and_lists_are_named(tmp_path):
    forms.webdataset(tmp_path)
    listed = tmp_path / "classes.txt"
    listed.write_text("a\nb\n")
    assert f"{listed} names 2 classes, and the samples have the nu" in refused(tmp_path)
    shard = tmp_path / "photos-train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    assert f"{shard} is cut off or damaged" in refused(tmp_path)


def test_shards_that_are_missing_are_said_and_doubles_refused(tmp_path):
    forms.webdataset(tmp_path)
    for number, name in ((0, "000000"), (2, "000001")):
        shard = tmp_path / f"photos-train-{name}.tar"
        shard.rename(tmp_path / f"photos-train-{number}-of-4.tar")
    notes = opened(tmp_path).notes
    assert any("2 of the 4 shards photos-train-... are not" in note for note in notes)
    assert any("the first is number 1" in note for note in notes)
    assert opened(tmp_path / "photos-train-0-of-4.tar").notes == ()
    double = tmp_path / "photos-train-2-of-4-0a1b.tar"
    shutil.copy(tmp_path / "photos-train-2-of-4.tar", double)
    assert "has a shard twice" in refused(tmp_path)
    double.rename(tmp_path / "photos-train-1-of-5.tar")
    assert "has two sets of shards" in refused(tmp_path)


def test_two_uploads_in_the_hubs_cache_are_not_both_read(tmp_path):
    for commit in ("0" * 40, "1" * 40):
        forms.webdataset(tmp_path / "snapshots" / commit)
    assert "has two uploads" in refused(tmp_path)
    opened(tmp_path / "snapshots" / commit)


def test_a_shard_that_was_not_fetched_is_one_line(tmp_path):
    """As git-annex, DVC and a cache that was moved have it: a link to nowhere."""
    forms.webdataset(tmp_path)
    shard = min(tmp_path.glob("*.tar"))
    shard.unlink()
    shard.symlink_to("nowhere")
    assert "is a link to nowhere, which does not exist; fetch it" in refused(tmp_path)


def test_a_number_of_a_folder_is_none_of_its_shards(tmp_path):
    forms.webdataset(tmp_path / "node-0-of-4")
    assert not opened(tmp_path).notes


def test_a_link_to_the_folder_above_gives_no_shard_twice(tmp_path):
    forms.webdataset(tmp_path)
    expected = [len(source) for source in opened(tmp_path).splits.values()]
    (tmp_path / "latest").symlink_to(".")
    dataset = opened(tmp_path)
    assert [len(source) for source in dataset.splits.values()] == expected
    assert dataset.left_out["in a folder read already"] > 0


def test_what_is_no_shard_is_refused(tmp_path):
    packed = tmp_path / "photos.tar.gz"
    packed.write_bytes(b"")
    assert "does not end in .tar; give a file that does" in refused(packed)
    assert "counts down" in refused(tmp_path / "{012..000}.tar")
