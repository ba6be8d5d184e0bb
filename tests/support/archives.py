"""Small archives in the layout of ImageNet's real ones."""

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.sources import registry


# Of the thousand; the devkit's numbers put them in another order than their names do.
WNIDS = {
    "n02119789": (1, "kit fox, Vulpes macrotis"),
    "n02100735": (2, "English setter"),
    "n01440764": (449, "tench, Tinca tinca"),
    "n15075141": (761, "toilet tissue, toilet paper, bathroom tissue"),
    "n03126707": (516, "crane"),
}
TRUTH = [449, 1, 761, 2, 516, 449, 1]
NUMBERS = sorted(number for number, _ in WNIDS.values())


def add(
    archive: tarfile.TarFile, name: str, data: bytes = b"", **attributes: object
) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in attributes.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(data))


def tar(files: Mapping[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, data in files.items():
            add(archive, name, data)
    return buffer.getvalue()


def meta(year: str = "2012", wnids: Mapping[str, tuple[int, str]] = WNIDS) -> bytes:
    """The devkit's meta.mat: the classes, and inner nodes of the hierarchy."""
    rows = [
        (number, wnid, words, "a gloss", 0, np.zeros(0), 0, 1300)
        for wnid, (number, words) in wnids.items()
    ]
    rows.append((1001, "n00001740", "entity", "a gloss", 2, np.array([1, 2]), 9, 0))
    fields = [f"ILSVRC{year}_ID", "WNID", "words", "gloss", "num_children"]
    fields += ["children", "wordnet_height", "num_train_images"]
    synsets = np.array(rows, [(field, object) for field in fields])
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets.reshape(-1, 1)})
    return buffer.getvalue()


def devkit(
    year: str = "2012",
    truth: Sequence[int] = TRUTH,
    folder: str = "ILSVRC2012_devkit_t12",
    wnids: Mapping[str, tuple[int, str]] = WNIDS,
) -> bytes:
    files = {
        f"{folder}/readme.txt": b"ground truth: data/meta.mat",
        f"{folder}/data/meta.mat": meta(year, wnids),
        f"{folder}/data/ILSVRC{year}_validation_ground_truth.txt": (
            "".join(f"{number}\n" for number in truth).encode()
        ),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            add(archive, name, data)
    return buffer.getvalue()


def write(root: Path, encode: Callable[[int, int], bytes], year: str = "2012") -> None:
    """The three archives, with two training images of each class.

    `encode` gives the bytes of an image that shows two numbers.
    """
    root.mkdir(parents=True, exist_ok=True)
    inner = {}
    for wnid, (number, _) in WNIDS.items():
        files = {f"{wnid}_{n}.JPEG": encode(number, n) for n in range(2)}
        inner[f"{wnid}.tar"] = tar(files)
    names = {
        "2012": ("img_train.tar", "img_val.tar", "devkit_t12.tar.gz", ""),
        "2010": ("images_train.tar", "images_val.tar", "devkit-1.0.tar.gz", "val/"),
    }
    train, val, kit, prefix = names[year]
    (root / f"ILSVRC{year}_{train}").write_bytes(tar(inner))
    images = {
        f"{prefix}ILSVRC{year}_val_{n + 1:08d}.JPEG": encode(truth, 100 + n)
        for n, truth in enumerate(TRUTH)
    }
    # Not in the order of their numbers.
    shuffled = dict(sorted(images.items(), key=lambda item: item[0][::-1]))
    (root / f"ILSVRC{year}_{val}").write_bytes(tar(shuffled))
    folder = "devkit-1.0" if year == "2010" else "ILSVRC2012_devkit_t12"
    (root / f"ILSVRC{year}_{kit}").write_bytes(devkit(year, folder=folder))


def encode(number: int, serial: int) -> bytes:
    """A JPEG of one colour, which shows the devkit's number and the serial one."""
    buffer = io.BytesIO()
    colour = (50 * NUMBERS.index(number), 100, serial)
    Image.new("RGB", (75, 56), colour).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def opened(root: Path) -> Dataset:
    return registry.open_dataset(
        source="imagenet", path=str(root), size=16, validation_fraction=0.1
    )
