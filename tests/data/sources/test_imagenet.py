import io
import tarfile
import time
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


def test_prepared_from_archives_and_from_class_folders_is_the_same(tmp_path, root):
    """As tars and unpacked, but for the order and the names: same images, labels."""
    folders = tmp_path / "folders"
    with tarfile.open(root / "ILSVRC2012_img_train.tar") as outer:
        for member in outer.getmembers():
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                wnid = member.name.removesuffix(".tar")
                # Python before 3.11.4 has no filters.
                filters = hasattr(tarfile, "data_filter")
                safe: dict[str, Any] = {"filter": "data"} if filters else {}
                inner.extractall(folders / "train" / wnid, **safe)
    numbers = {number: wnid for wnid, (number, _) in fakes.WNIDS.items()}
    with tarfile.open(root / "ILSVRC2012_img_val.tar") as archive:
        for member in archive.getmembers():
            truth = fakes.TRUTH[int(member.name[-13:-5]) - 1]
            archive.extract(member, folders / "val" / numbers[truth], filter="data")
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


def test_what_is_missing_or_of_another_year_is_named(tmp_path, root):
    train, val, kit = (
        root / f"ILSVRC2012_{name}"
        for name in ("img_train.tar", "img_val.tar", "devkit_t12.tar.gz")
    )
    assert "nowhere is not a folder" in refused(tmp_path / "nowhere")
    val.rename(tmp_path / "val.tar")
    assert "lacks ILSVRC2012_img_val.tar" in refused(root)
    (tmp_path / "val.tar").rename(val)
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
    (root / "ILSVRC2012_devkit_t3.tar.gz").write_bytes(fakes.devkit())
    assert "has both" in refused(root)
    (root / "ILSVRC2012_devkit_t3.tar.gz").unlink()
    opened(root)
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


def test_hostile_headers_cost_neither_time_nor_memory(tmp_path):
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
        begin = time.monotonic()
        tracemalloc.start()
        with pytest.raises(InputError, match=r"hostile.tar is cut off or damaged"):
            list(tar_index.members(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**24
        assert time.monotonic() - begin < 5


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
