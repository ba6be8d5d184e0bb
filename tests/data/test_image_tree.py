"""Which files are images, and what becomes of the others."""

import collections
import os

import numpy as np
import pytest
from PIL import Image, features

from alexnet_jax.data import image_paths, image_tree
from alexnet_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.full((9, 9, 3), 200, np.uint8))


def write(path, data=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def save(image, path, kind="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind)


def paths(root, **options):
    return [file.path for file in image_tree.scan(root, **options).images]


def test_a_file_of_unknown_ending_is_known_by_its_first_bytes(tmp_path, image):
    kinds = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]
    kinds += ["AVIF"] if features.check("avif") else []
    kinds += ["JPEG2000"] if features.check("jpg_2000") else []
    for kind in kinds:
        save(image, tmp_path / f"{kind}.unknown", kind)
        save(image, tmp_path / kind, kind)
    others = [b"", b"P2P networks", b"BMW, Benz", b"Python", b"\xff\xd8", b"<html>"]
    others += [b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"]
    for number, data in enumerate(others):
        write(tmp_path / f"{number}.other", data)
    found = image_tree.scan(tmp_path)
    names = sorted([*kinds, *(f"{kind}.unknown" for kind in kinds)])
    assert [file.path for file in found.images] == names
    assert found.left_out == {"not an image": len(others)}


def test_of_a_file_with_a_known_ending_nothing_is_read(tmp_path, image):
    for name in ("a.jpg", "b.JFIF", "c.jpe", "d.pgm", "e.pbm", "f.heic", "g.jp2"):
        write(tmp_path / name, b"no image")
    write(tmp_path / "h.avif", b"no image")
    save(image, tmp_path / "notes.txt")
    save(image, tmp_path / "raw.CR2", "TIFF")
    save(image, tmp_path / "old.jpg~")
    for name in ("Thumbs.db", "desktop.ini", "labels.csv"):
        write(tmp_path / name, b"\xff\xd8\xff")
    found = image_tree.scan(tmp_path)
    assert len(found.images) == 8
    left_out = {".txt": 1, ".cr2": 1, "~": 1, "hidden": 2, ".csv": 1}
    assert found.left_out == left_out


def test_hidden_and_system_files_are_left_out_and_counted(tmp_path):
    write(tmp_path / "cat" / "1.jpg")
    for name in (
        *("._1.jpg", "cat/._1.jpg", ".DS_Store", "cat/.ipynb_checkpoints/1.jpg"),
        *("__MACOSX/cat/._1.jpg", "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg"),
        *("cat/.ipynb_checkpoints/more/2.jpg", "$RECYCLE.BIN/3.jpg"),
    ):
        write(tmp_path / name)
    found = image_tree.scan(tmp_path)
    assert [file.path for file in found.images] == ["cat/1.jpg"]
    assert found.left_out == {"hidden": 8}


def test_every_file_is_an_image_or_counted(tmp_path):
    """Whatever the names: nothing is left out without a word."""
    rng = np.random.default_rng(0)
    names = ["a", ".b", "c.jpg", "d.txt", "e.jpg", "__MACOSX", "f.unknown", "G.PNG"]
    total = 0
    for number in range(200):
        parts = [str(rng.choice(names)) + str(n) for n in rng.integers(0, 3, 2)]
        parts[-1] = f"{number}{rng.choice(names)}"
        write(tmp_path.joinpath(*parts), rng.bytes(5))
        total += 1
    found = image_tree.scan(tmp_path)
    assert len(found.images) + sum(found.left_out.values()) == total
    assert found.images
    assert set(found.left_out) == {"hidden", "not an image", ".txt"}


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    for name in ("real/cat/1.jpg", "real/dog/2.jpg", "data/cat/3.jpg"):
        write(tmp_path / name)
    data = tmp_path / "data"
    (data / "cat" / "more").symlink_to("../../real/cat")
    (data / "dog").symlink_to("../real/dog")
    expected = ["cat/3.jpg", "cat/more/1.jpg", "dog/2.jpg"]
    assert paths(data) == expected
    circles = {
        "cat/self": ".",
        "cat/up": "..",
        "cat/root": "/",
        "cat/more/back": "../../data",
        "dog/sideways": "../../data/dog",
    }
    for name, target in circles.items():
        (data / name).symlink_to(target)
    (data / "cat" / "ring").symlink_to("ring")
    found = image_tree.scan(data)
    # A link to itself has no target: it is an image that can't be read.
    assert [file.path for file in found.images] == sorted([*expected, "cat/ring"])
    assert found.left_out == {"link to a folder above": 5}


def test_a_link_without_a_target_is_an_unreadable_image(tmp_path):
    for name in ("a.jpg", "SHA256E-s100--0", "notes.txt"):
        (tmp_path / name).symlink_to("annex/object")
    found = image_tree.scan(tmp_path)
    assert found.images == [("SHA256E-s100--0", 0), ("a.jpg", 0)]
    assert found.left_out == {".txt": 1}
    shown = [*image_paths.shown(image_paths.find([str(tmp_path)]), 9)]
    assert len(shown) == 2
    for image in shown:
        assert "is a link to annex/object, which does not exist" in str(image.error)


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    os.mkfifo(tmp_path / "c")
    assert image_tree.scan(tmp_path) == ([], [], {"pipe or device": 3})


def test_a_folder_that_can_t_be_listed_is_named(tmp_path):
    """Of so long a path that not even root can list it."""
    name, place = "d" * 250, os.open(tmp_path, os.O_RDONLY)
    for _ in range(18):
        os.mkdir(name, dir_fd=place)
        inside = os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inside
    os.close(place)
    with pytest.raises(InputError, match="ddd can't be read .File name too long"):
        image_tree.scan(tmp_path)


def test_what_this_library_wrote_is_no_data(tmp_path):
    write(tmp_path / "cat" / "1.jpg")
    for name in ("run/run.json", "run/config.json", "run/figures/kernels.png"):
        write(tmp_path / name)
    for name in ("set/dataset.json", "set/mean.npy"):
        write(tmp_path / name)
    found = image_tree.scan(tmp_path)
    assert [file.path for file in found.images] == ["cat/1.jpg"]
    assert found.left_out == {"in a run or a prepared set": 5}
    assert image_tree.scan(tmp_path, deep=False).folders == ["cat"]
    # Asked for by name it is a folder like others.
    assert paths(tmp_path / "run") == ["figures/kernels.png"]


def test_the_order_is_that_of_sorted_paths(tmp_path):
    names = ["a/b/1.jpg", "a/b.jpg", "a-b/1.jpg", "a.jpg", "a/b-c/1.jpg", "B/1.jpg"]
    names += ["é.jpg", "e.jpg", "a/ü/1.jpg"]
    for name in names:
        write(tmp_path / name)
    expected = sorted(tmp_path / name for name in names)
    assert [tmp_path / path for path in paths(tmp_path)] == expected


def test_names_that_are_not_utf_8_are_shown_with_escapes(tmp_path):
    write(tmp_path / os.fsdecode(b"Mu\xf1oz.jpg"))
    write(tmp_path / "Muñoz.jpg")
    shown = [image_tree.printable(path) for path in paths(tmp_path)]
    assert sorted(shown) == ["Mu\\xf1oz.jpg", "Muñoz.jpg"]


def test_one_line_says_what_is_left_out(capsys):
    counts = collections.Counter({"hidden": 2, ".txt": 1})
    image_tree.say_left_out("p", counts)
    image_tree.say_left_out("p", {})
    assert capsys.readouterr().err == "p: 3 files left out (1 .txt, 2 hidden)\n"
