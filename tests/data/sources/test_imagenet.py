import io
import shutil
import tarfile
import tracemalloc
from typing import Any

import numpy as np
import pytest

from alexnet_jax.data.encoded import FileSource
from alexnet_jax.data.prepared import preparation, verification
from alexnet_jax.data.sources import registry, tar_index
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError

import archives as fakes
import forms
from archives import NUMBERS, encode, opened


def number_in(image):
    return NUMBERS[round(image[..., 0].mean() / 50)]


@pytest.fixture
def root(tmp_path):
    fakes.write(tmp_path / "imagenet", encode)
    return tmp_path / "imagenet"


@pytest.mark.parametrize("year", ["2012", "2010"])
def test_labels_are_the_sorted_wnids_and_validation_goes_through_the_devkit(
    tmp_path, year
):
    fakes.write(tmp_path, encode, year)
    dataset = opened(tmp_path)
    assert dataset.class_ids == tuple(sorted(fakes.WNIDS))
    assert dataset.class_ids[0] == "n01440764"
    words = {wnid: words for wnid, (_, words) in fakes.WNIDS.items()}
    assert dataset.class_names == tuple(words[wnid] for wnid in dataset.class_ids)
    numbers = {number: wnid for wnid, (number, _) in fakes.WNIDS.items()}
    for split, count in (("train", 10), ("validation", 7)):
        source = dataset.splits[split]
        assert len(source) == count
        for index in range(count):
            example = source[index]
            wnid = numbers[number_in(example["image"])]
            assert dataset.class_ids[example["label"]] == wnid
            if split == "train":
                assert source.name(index).startswith(f"{wnid}/{wnid}_")
    held_out = dataset.splits["validation"]
    for index, truth in enumerate(fakes.TRUTH):
        assert held_out.name(index).endswith(f"_val_{index + 1:08d}.JPEG")
        assert dataset.class_ids[held_out[index]["label"]] == numbers[truth]


def test_training_images_come_in_the_order_of_the_disk(root):
    train = opened(root).splits["train"]
    assert isinstance(train, FileSource)
    offsets = [entry.offset for entry in train.entries]
    assert offsets == sorted(offsets)


def test_reading_the_archives_shows_how_far_it_is(root, monkeypatch, capsys):
    """The tars of ImageNet take a minute and more to go through."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    opened(root)
    lines = [
        line for line in capsys.readouterr().err.splitlines() if "archives" in line
    ]
    classes = len(fakes.WNIDS)
    assert [line.split("  ")[0] for line in lines] == [
        f"reading archives {done}/{classes}" for done in range(1, classes + 1)
    ]


def unpack(path, folder):
    """The files of a tar, safely."""
    with tarfile.open(path) as archive:
        # Python before 3.11.4 has no filters.
        filters = hasattr(tarfile, "data_filter")
        safe: dict[str, Any] = {"filter": "data"} if filters else {}
        archive.extractall(folder, **safe)


def unpacked(root, folder):
    """Class folders of training images, and a flat folder of validation images."""
    for archive in ("train", "val"):
        unpack(root / f"ILSVRC2012_img_{archive}.tar", folder / archive)
    for wnid in fakes.WNIDS:
        inner = folder / "train" / f"{wnid}.tar"
        unpack(inner, folder / "train" / wnid)
        inner.unlink()
    return folder


def test_prepared_from_archives_and_from_class_folders_is_the_same(tmp_path, root):
    """As tars and unpacked, but for the order and the names: same images, labels."""
    folders = unpacked(root, tmp_path / "folders")
    numbers = {number: wnid for wnid, (number, _) in fakes.WNIDS.items()}
    for file in list((folders / "val").iterdir()):
        place = folders / "val" / numbers[fakes.TRUTH[int(file.name[-13:-5]) - 1]]
        place.mkdir(exist_ok=True)
        file.rename(place / file.name)
    (folders / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(fakes.devkit())
    examples = []
    for name, path in (("tars", root), ("unpacked", folders)):
        output = tmp_path / f"prepared-{name}"
        content = preparation.prepare(
            source="imagenet", input_path=str(path), output=output, size=16, workers=1
        )
        assert content["counts"] == {"train": 10, "validation": 7}
        assert verification.verify(output, workers=1) == []
        found = registry.open_dataset(
            source="prepared", path=str(output), size=1, validation_fraction=0.1
        )
        assert found.class_names[0] == "tench, Tinca tinca"
        examples.append(
            {
                split: sorted(
                    (
                        source.name(i).split("/")[-1],
                        source[i]["label"],
                        source[i]["image"].tobytes(),
                    )
                    for i in range(len(source))
                )
                for split, source in found.splits.items()
            }
        )
    assert examples[0] == examples[1]


def refused(root):
    with pytest.raises(InputError) as caught:
        opened(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def listing(dataset):
    """Every example's name and class, by split."""
    return {
        split: sorted((s.name(i), s[i]["label"], s.where(i)) for i in range(len(s)))
        for split, s in dataset.splits.items()
    }


@pytest.mark.parametrize("form", ["tar", "tar and flat", "flat"])
def test_unpacked_training_images_with_other_validation_images(tmp_path, root, form):
    """With the tar, or a flat folder as the tar unpacks to: as from both tars."""
    folders = unpacked(root, tmp_path / "folders")
    kit = "ILSVRC2012_devkit_t12.tar.gz"
    (folders / "val" / "readme.txt").write_text("")
    if form == "tar":
        shutil.rmtree(folders / "val")
    if form != "flat":
        shutil.copy(root / "ILSVRC2012_img_val.tar", folders)
        assert f"lacks {kit}" in refused(folders)
    else:
        assert f"lacks {kit}" in refused(folders)
    shutil.copy(root / kit, folders)
    expected, found = opened(root), opened(folders)
    assert found.class_ids == expected.class_ids
    assert found.class_names == expected.class_names
    names = {split: [e[:2] for e in x] for split, x in listing(expected).items()}
    assert {split: [e[:2] for e in x] for split, x in listing(found).items()} == names
    place = "val/" if form == "flat" else "ILSVRC2012_img_val.tar: "
    for name, _, where in listing(found)["validation"]:
        assert where == f"{folders}/{place}{name}"
    left_out = {"tar": {}, "flat": {".txt": 1}}
    left_out["tar and flat"] = {".txt": 1, "in val, which the tar has as well": 7}
    assert found.left_out == left_out[form]
    shutil.rmtree(folders / "train" / "n01440764")
    assert "has classes that train lacks: n01440764" in refused(folders)


def test_archives_packed_on_other_systems(tmp_path):
    """With Windows' separators, and with the hidden files that Macs add."""
    fakes.write(tmp_path / "plain", encode)
    fakes.write(tmp_path / "other", encode)
    hidden = {"._x": b"\0\5\26\7"}
    tars = {f"train\\._{next(iter(fakes.WNIDS))}.tar": b"\0\5\26\7"}
    for wnid, (number, _) in fakes.WNIDS.items():
        files = {f"{wnid}\\{wnid}_{n}.JPEG": encode(number, n) for n in range(2)}
        tars[f"train\\{wnid}.tar"] = fakes.tar({**hidden, **files})
    (tmp_path / "other" / "ILSVRC2012_img_train.tar").write_bytes(fakes.tar(tars))
    images = {
        f"val\\ILSVRC2012_val_{n + 1:08d}.JPEG": encode(truth, 100 + n)
        for n, truth in enumerate(fakes.TRUTH)
    }
    archive = fakes.tar({**hidden, **images})
    (tmp_path / "other" / "ILSVRC2012_img_val.tar").write_bytes(archive)
    found = opened(tmp_path / "other")
    assert found.fingerprint == opened(tmp_path / "plain").fingerprint
    assert found.left_out == {"hidden": 7}


def test_what_is_missing_or_of_another_year_is_named(tmp_path, root):
    train, kit = (
        root / f"ILSVRC2012_{name}" for name in ("img_train.tar", "devkit_t12.tar.gz")
    )
    assert "nowhere is not a folder" in refused(tmp_path / "nowhere")
    kit.unlink()
    assert "lacks ILSVRC2012_devkit_t12.tar.gz" in refused(root)
    other = root / "ILSVRC2010_devkit-1.0.tar.gz"
    other.write_bytes(fakes.devkit("2010"))
    assert "mixes the archives of different years" in refused(root)
    other.rename(kit)
    assert "it is not the devkit of 2012" in refused(root)
    assert "ILSVRC2010_validation_ground_truth.txt" in refused(root)
    kit.write_bytes(fakes.devkit(truth=fakes.TRUTH[:-1]))
    assert "7 images where the devkit has the classes of 6" in refused(root)
    kit.write_bytes(fakes.devkit(truth=[*fakes.TRUTH[:-1], 1001]))
    assert "which it does not list" in refused(root)
    kit.write_bytes(fakes.devkit()[:-200])
    assert "fetch it again" in refused(root)
    kit.write_bytes(b"no archive")
    assert "fetch it again" in refused(root)
    kit.write_bytes(fakes.devkit())
    inner = {f"{wnid}.tar": fakes.tar({"a.JPEG": b"x"}) for wnid in list(fakes.WNIDS)}
    del inner["n02119789.tar"]
    train.write_bytes(fakes.tar(inner))
    assert "lacks 1 of 5 classes' archives: n02119789.tar" in refused(root)
    inner["n02119789.tar"] = fakes.tar({})
    train.write_bytes(fakes.tar(inner))
    assert "n02119789.tar has no images" in refused(root)
    inner["n99999999.tar"] = fakes.tar({"a.JPEG": b"x"})
    train.write_bytes(fakes.tar(inner))
    assert "n99999999.tar, which is no class" in refused(root)


def test_cut_archives_are_named(root):
    train = root / "ILSVRC2012_img_train.tar"
    whole = train.read_bytes()
    for length in (700, 3000, len(whole) // 2, len(whole) // 2 + 4321):
        train.write_bytes(whole[:length])
        assert "ILSVRC2012_img_train.tar" in refused(root)
    train.write_bytes(b"this is no archive at all " * 99)
    assert "cut off or damaged" in refused(root)
    # A flipped bit in the header of an inner archive's second image, and a hole of
    # zeros before it, as a broken download may leave.
    second = whole.index(b"n01440764_1.JPEG")
    for damaged in (b"X", bytes(512)):
        data = bytearray(whole)
        data[second : second + len(damaged)] = damaged
        train.write_bytes(data)
        assert "n01440764.tar is cut off or damaged" in refused(root)
    # An inner archive that ends inside a member.
    inner = {f"{wnid}.tar": fakes.tar({"a.JPEG": bytes(3000)}) for wnid in fakes.WNIDS}
    inner["n01440764.tar"] = inner["n01440764.tar"][:1500]
    train.write_bytes(fakes.tar(inner))
    assert "n01440764.tar is cut off or damaged" in refused(root)


@pytest.mark.parametrize(
    ("name", "attributes", "message"),
    [
        ("../../etc/passwd.JPEG", {}, "a member outside of it"),
        ("/etc/passwd.JPEG", {}, "a member outside of it"),
        ("a.JPEG", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "no plain"),
        ("a.JPEG", {"type": tarfile.LNKTYPE, "linkname": "b"}, "no plain"),
        ("a.JPEG", {"type": tarfile.CHRTYPE}, "no plain"),
        ("a.JPEG", {"type": tarfile.FIFOTYPE}, "no plain"),
    ],
)
@pytest.mark.parametrize("where", ["inner", "outer", "validation"])
def test_hostile_members_are_refused(root, name, attributes, message, where):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        fakes.add(archive, name, b"", **attributes)
    train = root / "ILSVRC2012_img_train.tar"
    if where == "outer":
        train.write_bytes(buffer.getvalue())
    elif where == "inner":
        inner = {f"{wnid}.tar": buffer.getvalue() for wnid in fakes.WNIDS}
        train.write_bytes(fakes.tar(inner))
    else:
        (root / "ILSVRC2012_img_val.tar").write_bytes(buffer.getvalue())
    assert message in refused(root)


def test_hostile_headers_cost_no_memory(tmp_path):
    path = tmp_path / "hostile.tar"
    header = tarfile.TarInfo("a.JPEG")
    # A long name of four gigabytes, a negative size that would go round in circles,
    # and sizes past the end.
    cases = []
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        long = tarfile.TarInfo("././@LongLink")
        long.type, long.size = kind, 2**32
        cases.append(long.tobuf(tarfile.GNU_FORMAT))
    negative = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    negative[124:136] = b"\xff" * 10 + b"\xfe\x00"
    negative[148:156] = b" " * 8
    total = sum(negative)
    negative[148:156] = f"{total:06o}\0 ".encode()
    cases.append(bytes(negative))
    huge = tarfile.TarInfo("b.JPEG")
    huge.size = 2**60
    cases.append(huge.tobuf(tarfile.GNU_FORMAT))
    for case in cases:
        with path.open("wb") as file:
            file.write(fakes.tar({"0.JPEG": b"x"})[:1024] + case)
            file.truncate(2**33)
        tracemalloc.start()
        with pytest.raises(InputError, match=r"hostile.tar is cut off or damaged"):
            list(tar_index.members(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**24


def test_a_devkit_that_unpacks_without_end(root, monkeypatch):
    monkeypatch.setattr(tar_index, "_MAX_UNPACKED", 1000)
    assert "unpacks to over 1000 bytes" in refused(root)


def test_any_change_of_bytes_gives_members_or_an_input_error(tmp_path):
    """A header has a checksum: members come out as they were, or nothing does."""
    rng = np.random.default_rng(0)
    whole = fakes.tar({f"{n}.JPEG": bytes([n]) * 700 for n in range(4)})
    path = tmp_path / "fuzzed.tar"
    path.write_bytes(whole)
    original = list(tar_index.members(path))
    assert len(original) == 4
    outcomes = {True: 0, False: 0}
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(0, 4) * 1536 + rng.integers(0, 512)
            data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            found = list(tar_index.members(path))
        except InputError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
            assert found == original
    assert outcomes[False] > 500


def test_a_table_of_kaggles_with_a_stray_quote_is_one_line(tmp_path):
    """All that follows is one field, longer than Python's reader takes."""
    forms.kaggle(tmp_path)
    table = tmp_path / "LOC_val_solution.csv"
    begin = table.read_text().splitlines()[0]
    rows = "ILSVRC2012_val_00000001,n01440764 1 2 3 4\n" * 9000
    table.write_text(f'{begin}\n"{rows}')
    with pytest.raises(InputError, match=r"LOC_val_solution.csv is damaged \(field"):
        forms.opened("imagenet", tmp_path)
