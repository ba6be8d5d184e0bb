import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, features

from alexnet_jax.data import decoding
from alexnet_jax.runtime.errors import InputError


AVIF, JPEG2000 = (
    pytest.mark.skipif(not features.check(codec), reason=f"Pillow without {codec}")
    for codec in ("avif", "jpg_2000")
)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(image, kind, name="image", size=96, **options):
    return decoding.decode(encoded(image, kind, **options), name, size=size)


@pytest.fixture(scope="module")
def piece(photographs):
    return Image.fromarray(photographs[0][:96, :96])


def smooth(height, width):
    """An image without detail, which no way of resizing changes much."""
    rows, columns = np.mgrid[:height, :width]
    planes = [rows * 200 / height, columns * 200 / width, rows * 0 + 80]
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))


@pytest.mark.parametrize("shape", [(427, 640), (640, 427), (56, 75), (1600, 2400)])
def test_the_short_side_is_resized_and_the_centre_cut(shape):
    image = smooth(*shape)
    cut = np.asarray(decoding.square(image, 64)).astype(float)
    width, height = image.size
    short = min(width, height)
    whole = image.resize(
        (round(width * 64 / short), round(height * 64 / short)),
        Image.Resampling.BICUBIC,
    )
    left, top = (whole.width - 64) // 2, (whole.height - 64) // 2
    expected = np.asarray(whole)[top : top + 64, left : left + 64].astype(float)
    # Rounding the long side moves pixels by less than one: less than 200 / 64.
    assert np.abs(cut - expected).max() < 4
    assert cut.shape == (64, 64, 3)


def test_where_the_long_side_works_out_it_is_resize_and_cut_to_the_bit(photographs):
    photograph = Image.fromarray(photographs[0][:400, :600])
    whole = photograph.resize((150, 100), Image.Resampling.BICUBIC)
    expected = np.asarray(whole)[:, 25:125]
    np.testing.assert_array_equal(decoding.square(photograph, 100), expected)


def test_a_jpeg_decodes_as_pillow_does(piece):
    data = encoded(piece, "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    decoded = decoding.decode(data, "a.jpg", size=96)
    np.testing.assert_array_equal(decoded.image, expected)
    assert decoded.repaired == ()


@pytest.mark.parametrize(
    ("mode", "kind", "name", "repaired"),
    [
        ("L", "JPEG", "a.JPEG", ("greyscale",)),
        ("CMYK", "JPEG", "a.JPEG", ("CMYK",)),
        ("RGB", "PNG", "n02105855_2933.JPEG", ("PNG named .jpeg",)),
        ("RGB", "JPEG", "it's.jpg", ()),
        ("P", "PNG", "a.png", ("palette",)),
        ("RGBA", "PNG", "a.png", ("transparency",)),
        ("LA", "PNG", "a.png", ("greyscale", "transparency")),
        ("RGB", "TIFF", "a.tif", ()),
        ("RGB", "WEBP", "a.webp", ()),
        ("1", "BMP", "a.bmp", ("greyscale",)),
        ("P", "GIF", "a.gif", ("palette",)),
        ("RGB", "JPEG", "a.jfif", ()),
        ("RGB", "JPEG", "a.JPE", ()),
        ("L", "PPM", "a.pgm", ("greyscale",)),
        ("1", "PPM", "a.pbm", ("greyscale",)),
        pytest.param("RGB", "AVIF", "a.avif", (), marks=AVIF),
        pytest.param("RGB", "AVIF", "a.jpg", ("AVIF named .jpg",), marks=AVIF),
        pytest.param("RGBA", "JPEG2000", "a.jp2", ("transparency",), marks=JPEG2000),
        pytest.param(
            "RGB", "JPEG2000", "a.png", ("JPEG2000 named .png",), marks=JPEG2000
        ),
        ("RGB", "PNG", "without ending", ()),
    ],
)
def test_every_kind_of_image_becomes_rgb(piece, mode, kind, name, repaired):
    found = read(piece.convert(mode), kind, name)
    assert found.image.shape == (96, 96, 3)
    assert found.image.dtype == np.uint8
    assert found.repaired == repaired
    if mode in ("L", "LA"):
        assert (found.image[..., 0] == found.image[..., 1]).all()
    elif mode in ("RGB", "RGBA", "CMYK"):
        error = np.abs(found.image.astype(float) - np.asarray(piece)).mean()
        assert error < 4


def test_cmyk_is_neither_inverted_nor_grey():
    red = Image.new("RGB", (96, 96), (255, 0, 0)).convert("CMYK")
    found = read(red, "JPEG", quality=95).image.astype(int)
    assert found[..., 0].min() > 240
    assert found[..., 1:].max() < 15


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_camera_s_orientation_is_applied(piece, orientation):
    """Turn the image by the inverse of each orientation, and say so in the file."""
    array = np.asarray(piece)
    inverse = {
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.swapaxes(0, 1),
        6: np.rot90(array),
        7: array[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(array, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF", "JPEG"):
        image = Image.fromarray(np.ascontiguousarray(inverse))
        found = read(image, kind, exif=exif)
        assert found.repaired == ("orientation",)
        if kind != "JPEG":
            np.testing.assert_array_equal(found.image, array)
        else:
            assert np.abs(found.image.astype(float) - array).mean() < 8


def test_transparency_lies_on_white_and_16_bits_are_scaled(piece):
    clear = piece.convert("RGBA")
    clear.putalpha(0)
    assert (read(clear, "PNG").image == 255).all()
    half = Image.new("RGBA", (96, 96), (0, 0, 0, 128))
    np.testing.assert_allclose(read(half, "PNG").image, 127, atol=1)
    grey = np.asarray(piece.convert("L"))
    deep = (grey.astype(np.uint16) << 8) + 77
    found = read(Image.fromarray(deep), "PNG")
    np.testing.assert_array_equal(found.image[..., 0], grey)
    found = read(Image.fromarray(deep), "PPM", "a.pgm")
    np.testing.assert_array_equal(found.image[..., 0], grey)
    assert found.repaired == ("greyscale",)
    with pytest.raises(InputError, match=r"real.tif .*no known range"):
        read(Image.fromarray(np.ones((96, 96), np.float32)), "TIFF", "real.tif")


def test_heic_needs_a_package_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brand, rest in ((b"heic", b"mif1heic"), (b"mif1", b"mif1heix")):
        data = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + rest + bytes(400)
        message = refused(data, "IMG_0001.jpg")
        assert "IMG_0001.jpg can't be read as an image (HEIC needs the" in message
        assert "`pip install " in message


# A process of its own writes it, so that this one reads as a user's does.
WRITE_HEIC = """
import sys
import pillow_heif
from PIL import Image
pillow_heif.register_heif_opener()
exif = Image.Exif()
exif[0x0112] = 6
with Image.open(sys.argv[1]) as image:
    image.rotate(90).save(sys.argv[2], "HEIF", exif=exif, quality=95)
"""


def test_heic_is_read_where_its_package_is_installed(piece, tmp_path):
    pytest.importorskip("pillow_heif")
    original, path = tmp_path / "a.png", tmp_path / "a.heic"
    piece.save(original)
    command = [sys.executable, "-c", WRITE_HEIC, str(original), str(path)]
    subprocess.run(command, check=True)
    for name in ("a.heic", "a.jpg"):
        found = decoding.decode(path.read_bytes(), name, size=96)
        assert found.repaired == (() if name == "a.heic" else ("HEIF named .jpg",))
        assert np.abs(found.image.astype(float) - np.asarray(piece)).mean() < 8


def test_an_open_image_becomes_what_its_file_does(piece):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(piece.convert("RGBA"), "PNG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        found = decoding.prepared(image, 64)
    np.testing.assert_array_equal(found, decoding.decode(data, "a.png", size=64).image)


def test_damage_that_decoders_forgive_is_read_and_noted(piece):
    data = encoded(piece, "JPEG", quality=90)
    # A few bytes are lost before the end marker.
    found = decoding.decode(data[:-12] + data[-2:], "a.jpg", size=96)
    assert found.repaired == ("damage that decoders forgive",)
    expected = decoding.decode(data, "a.jpg", size=96).image
    np.testing.assert_array_equal(found.image[:64], expected[:64])


def refused(data, name="bad.JPEG"):
    with pytest.raises(InputError) as caught:
        decoding.decode(data, name, size=96)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_broken_files_are_refused_by_name(photographs):
    data = encoded(Image.fromarray(photographs[0]), "JPEG")
    assert "can't be read as an image" in refused(data[: len(data) // 2])
    assert "is not an image" in refused(b"")
    assert "is not an image" in refused(b"this is text\n" * 99)
    png = encoded(Image.fromarray(photographs[0]), "PNG")
    assert "can't be read as an image" in refused(png[: len(png) // 2])
    for pointer in (
        b"version https://git-lfs.github.com/spec/v1\n",
        b"/annex/objects/a",
    ):
        assert "stands for an image; fetch that (`git lfs pull`" in refused(pointer)
    # Pillow would run Ghostscript on it.
    assert "is not an image" in refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0")


def png_of(width, height):
    def chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def test_a_huge_image_is_refused_from_its_header():
    jpeg = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    for data in (bytes(jpeg), png_of(60_000, 60_000)):
        tracemalloc.start()
        message = refused(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "60000 x 60000 pixels" in message or "3600000000 pixels" in message
        assert peak < 2**22
    assert "over the limit" in refused(png_of(9000, 9000))
    assert "over the limit" not in refused(png_of(100, 100))


def test_a_progressive_jpeg_of_thousands_of_scans_is_refused(photographs):
    data = encoded(Image.fromarray(photographs[0]), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    bomb = data[:-2] + scan * 9000 + data[-2:]
    assert "scans over 640 x 427 pixels" in refused(bomb)
    assert decoding.decode(data, "a.jpg", size=96).repaired == ()


def test_a_file_too_large_for_an_image(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_BYTES", 100)
    assert "101 bytes, more than the 100" in refused(bytes(101))


def test_any_bytes_give_an_image_or_an_input_error(piece):
    """Flip, cut and repeat bytes of real files: nothing else may come out."""
    rng = np.random.default_rng(0)
    kinds = ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"]
    kinds += ["AVIF"] if features.check("avif") else []
    kinds += ["JPEG2000"] if features.check("jpg_2000") else []
    small = piece.resize((24, 24))
    seeds = [encoded(small, kind) for kind in kinds]
    seeds.append(encoded(small, "JPEG", progressive=True))
    outcomes = {True: 0, False: 0}
    for number in range(600):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(0, len(data))] = rng.integers(0, 256)
        if number % 3 == 0:
            del data[rng.integers(0, len(data)) :]
        try:
            found = decoding.decode(bytes(data), "fuzzed.jpg", size=16)
        except InputError:
            outcomes[False] += 1
        else:
            assert found.image.shape == (16, 16, 3)
            outcomes[True] += 1
    assert min(outcomes.values()) > 50
