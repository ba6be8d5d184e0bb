"""Which files of a folder are images: one rule for every command.

An image is a file with an image's ending, or with an unknown ending and an image's
first bytes; a link without a target is an image that can't be read. Hidden files and
folders are left out, and what systems put beside images. Links are followed, but not
back into a folder above. Whatever is left out is counted by its reason.
"""

import collections
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data import decoding
from alexnet_jax.runtime import clutter, progress
from alexnet_jax.runtime.errors import InputError, UnreadableImage


# Files that lie beside images in large numbers, or hold images in a form that is not
# read here: known by their ending, and not opened.
_OTHER = {
    "text": ".cfg .csv .html .ini .ipynb .js .json .jsonl .log .md .py .sh .tsv .txt "
    ".url .xml .yaml .yml",
    "data": ".cls .db .dvc .gz .h5 .lmdb .mat .md5 .npy .npz .parquet .pdf .pkl .tar "
    ".tfrecord .tgz .xz .zip",
    "unfinished or earlier": ".bak .crdownload .orig .part .swp .tmp",
    # Their first bytes are often those of a TIFF.
    "raw": ".arw .cr2 .cr3 .dng .nef .orf .raf .rw2",
    "drawn, layered or moving": ".ai .avi .dcm .eps .exr .hdr .ico .jxl .mkv .mov .mp4 "
    ".psd .svg .webm",
}
OTHER_ENDINGS = frozenset(" ".join(_OTHER.values()).split())
# What tells work directories, prepared sets and unfinished ones from folders of images.
OWN_FILES = (
    ("run.json", "config.json"),
    ("dataset.json", "mean.npy"),
    ("job.json", "notes"),
)
# How the folder ends in which a data set is prepared.
UNFINISHED = ".unfinished"
# Bytes that tell an image from other files.
HEAD = 64

# How many files are left out, by the reason.
LeftOut = collections.Counter[str]
# What the system tells folders apart by: disk and number.
Identity = tuple[int, int]


class ImageFile(NamedTuple):
    """An image's path, relative to the root, as the system spells it, and its length in
    bytes, 0 where it can't be read."""

    path: str
    length: int


class Found(NamedTuple):
    """The images of a folder in the order of their paths, part by part; the names of
    the folders that were not entered; and how many files are left out, and why."""

    images: list[ImageFile]
    folders: list[str]
    left_out: LeftOut


def scan(root: Path, under: str = "", *, deep: bool = True) -> Found:
    """Find the images of a folder: at any depth, or, unless `deep`, directly in it.

    The folder is `under` the root, and so are the images' paths. Each folder is listed
    once. Of files with a known ending nothing is read.

    Raises:
      InputError: if a folder can't be listed.
    """
    folder = root / under
    found = Found([], [], LeftOut())
    above = _above(folder) if deep else None
    _scan(os.fspath(folder), f"{under}/" if under else "", above, found)
    return found._replace(left_out=+found.left_out)


def _above(folder: Path) -> frozenset[Identity]:
    """The folders above one, along its own path and along that of its target."""
    paths = (Path(os.path.abspath(folder)), Path(os.path.realpath(folder)))
    return frozenset(
        (status.st_dev, status.st_ino)
        for path in paths
        for status in map(os.stat, path.parents)
    )


def _scan(
    place: str, prefix: str, above: frozenset[Identity] | None, found: Found
) -> None:
    """Add what is in a folder; folders in it are entered unless `above` is None."""
    try:
        status = os.stat(place)
        with os.scandir(place) as entries:
            # Folders are entered where their names stand: so all is in order.
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"{printable(place)} can't be read ({error.strerror}); make it readable, "
            "or move it away"
        ) from error
    identity = status.st_dev, status.st_ino
    if above is not None and identity in above:
        found.left_out["link to a folder above"] += 1
        return
    for entry in listed:
        if _is_hidden(entry):
            found.left_out["hidden"] += _count(entry)
        elif _is(entry.is_dir):
            if is_unfinished(entry.path):
                # Not counted: the same command, given again, must find the same.
                continue
            if _is_ours(entry.path):
                found.left_out["in a run or a prepared set"] += count_files(entry.path)
            elif above is None:
                found.folders.append(entry.name)
            else:
                inside = f"{prefix}{entry.name}/"
                _scan(entry.path, inside, above | {identity}, found)
        elif reason := _no_image(entry):
            found.left_out[reason] += 1
        else:
            found.images.append(ImageFile(prefix + entry.name, _length(entry)))


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    return name.startswith(".") or clutter.is_clutter(name)


def _is_ours(folder: str) -> bool:
    """Whether a folder was written here: a work directory, a data set."""
    return any(
        all(os.path.lexists(os.path.join(folder, name)) for name in names)
        for names in OWN_FILES
    )


def is_unfinished(folder: str) -> bool:
    """Whether a data set is being prepared in a folder."""
    return folder.endswith(UNFINISHED) and _is_ours(folder)


def _is(kind: Callable[[], bool]) -> bool:
    """What `is_dir` or `is_file` says; false where a link leads to itself, or through a
    folder that may not be entered."""
    try:
        return kind()
    except OSError:
        return False


def _no_image(entry: os.DirEntry[str]) -> str:
    """Why a file is no image; empty for an image."""
    ending = os.path.splitext(entry.name)[1].lower()
    if ending in OTHER_ENDINGS:
        return ending
    if ending.endswith("~"):
        return "~"
    if not _is(entry.is_file):
        nowhere = entry.is_symlink() and not os.path.exists(entry.path)
        return "" if nowhere else "pipe or device"
    if ending in decoding.ENDINGS or _begins_as_image(entry.path):
        return ""
    return "not an image"


def _begins_as_image(path: str) -> bool:
    """Whether the first bytes are an image's; true as well of what can't be read, which
    is then named where images are read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return decoding.is_image(file.read(HEAD))
    except OSError:
        return True


def _length(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def _count(entry: os.DirEntry[str]) -> int:
    """The files of a folder, or 1."""
    return count_files(entry.path) if entry.is_dir(follow_symlinks=False) else 1


def count_files(folder: str | Path) -> int:
    """How many files a folder has at any depth; links are not followed."""
    return sum(len(files) for _, _, files in os.walk(folder))


def printable(path: str | Path) -> str:
    """A path that any UTF-8 text can hold: bytes of it that are not UTF-8 become
    escapes like `\\xf1`."""
    text = os.fspath(path)
    if text.isascii():
        return text
    try:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        # Text that doesn't come from the system, in a locale without its letters.
        return text


def check_utf8(flag: str, path: Path) -> None:
    """Raise an InputError if a path is not UTF-8: Orbax and ArrayRecord open no other.
    The `flag`, such as `--output=`, comes before it in the message."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{flag}{printable(path.absolute())} is not UTF-8, or not text in this "
            "locale, and so can't hold checkpoints or prepared sets; choose another "
            "folder, or set LC_ALL=C.UTF-8"
        ) from None


def cannot_read(path: Path, error: OSError) -> UnreadableImage:
    """The error for a file that the system can't read."""
    shown = printable(path)
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return UnreadableImage(
            f"{shown} is a link to {printable(os.readlink(path))}, which does not "
            "exist; fetch it (`git annex get`, `dvc pull`) or move the link away"
        )
    return UnreadableImage(f"{shown} can't be read ({error.strerror})")


def say_left_out(where: str | Path, left_out: Mapping[str, int]) -> None:
    """Print a line that says what was left out, if anything was."""
    if total := sum(left_out.values()):
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(left_out.items()))
        files = "file" if total == 1 else "files"
        progress.say(f"{printable(where)}: {total} {files} left out ({reasons})")
