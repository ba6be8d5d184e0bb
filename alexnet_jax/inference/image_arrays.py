"""Images that lie in one array of an NPY or HDF5 file, read a row at a time."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.image_tree import printable
from alexnet_jax.inference import image_input
from alexnet_jax.runtime import optional
from alexnet_jax.runtime.errors import InputError, first_line


HDF5 = (".h5", ".hdf5", ".mat")
ENDINGS = (".npy", *HDF5)
# Images that a checksum reads of an array, evenly chosen.
SAMPLED = 64
# Along the last axis of an image in colour, without and with transparency.
COLOURS = (3, 4)


class ImageArray(NamedTuple):
    """An array of images.

    Attributes:
      images: how many images.
      fingerprint: a checksum of its shape, its type and some of its images.
      read: an image by its number, as it lies in the array.
    """

    images: int
    fingerprint: str
    read: Callable[[int], np.ndarray]


def find(given: Path) -> tuple[Path, str | None] | None:
    """The file that `FILE.npy`, `FILE.h5` or `FILE.h5:DATASET` names and the dataset;
    None if it names none."""
    if given.suffix.lower() in ENDINGS and given.is_file():
        return given, None
    file, colon, dataset = str(given).rpartition(":")
    path = Path(file)
    if colon and path.suffix.lower() in HDF5 and path.is_file():
        return path, dataset
    return None


def open_array(path: Path, dataset: str | None) -> ImageArray:
    """Open an array of images x height x width x 3, or of grey images without the last
    axis, of whole numbers of 0 to 255. MATLAB's are height x width x 3 x images, as it
    writes them with `-v7.3`.

    Args:
      path: of an NPY or HDF5 file.
      dataset: its name in an HDF5 file; None for the only one of three or four axes.

    Raises:
      InputError: if it can't be read, or it is not certain what its numbers mean.
    """
    where = f"--input={printable(path)}"
    try:
        if path.suffix.lower() == ".npy":
            shape, kind, read = _npy(path)
        else:
            shape, kind, read = _hdf5(path, dataset, where)
        if len(shape) not in (3, 4) or not shape[0]:
            raise InputError(
                f"{where} is of {shape}; images x height x width x 3 is needed"
            )
        if len(shape) == 3 and shape[2] in COLOURS:
            raise InputError(
                f"{where} is of {shape}: one image in colour, or grey ones of "
                f"{shape[2]} columns; give an image as (1, height, width, 3)"
            )
        # What is wrong with the array shows in its first image.
        image_input.stored(read(0), 1)
        chosen = np.linspace(0, shape[0] - 1, min(shape[0], SAMPLED)).astype(int)
        digest = hashlib.sha256(f"{shape} {kind}".encode())
        for index in chosen.tolist():
            digest.update(np.ascontiguousarray(read(index)).tobytes())
    except InputError as error:
        text = str(error)
        raise InputError(
            text if text.startswith(where) else f"{where}: {text}"
        ) from error
    except Exception as error:
        # Headers of strangers make both libraries raise many kinds.
        raise InputError(f"{where} can't be read ({first_line(error)})") from error
    return ImageArray(shape[0], digest.hexdigest(), read)


Opened = tuple[tuple[int, ...], np.dtype[Any], Callable[[int], np.ndarray]]


def _npy(path: Path) -> Opened:
    # Its header is read once: Python's parser, which NumPy has do it, can fail where
    # several threads parse.
    array = np.lib.format.open_memmap(path, mode="r")
    shape, kind, begin = array.shape, array.dtype, array.offset
    order = "C" if array.flags.c_contiguous else "F"

    def read(index: int) -> np.ndarray:
        # Mapped anew for each image: pages of a map that stays count as memory.
        rows = np.memmap(path, kind, "r", begin, shape, order)
        return np.array(rows[index])

    return shape, kind, read


def _hdf5(path: Path, dataset: str | None, where: str) -> Opened:
    h5py = optional.require("h5py", path)
    if path.suffix.lower() == ".mat" and not h5py.is_hdf5(path):
        raise InputError(
            f"{where} is of MATLAB's older format; write it with save(..., '-v7.3')"
        )
    with h5py.File(path, "r") as file:
        found: dict[str, tuple[int, ...]] = {}

        def note(name: str, item: Any) -> None:
            # Files of MATLAB hold what belongs to it under names of this kind.
            if isinstance(item, h5py.Dataset) and not name.startswith("#"):
                found[name] = item.shape

        file.visititems(note)
        images = [name for name, shape in found.items() if len(shape) in (3, 4)]
        name = dataset.strip("/") if dataset is not None else ""
        if dataset is None and len(images) == 1:
            name = images[0]
        if name not in found:
            lacks = f"has no dataset {dataset}" if dataset else "is in doubt"
            shown = ", ".join(f"{name} {shape}" for name, shape in found.items())
            raise InputError(
                f"{where} {lacks}: it has {shown or 'no dataset'}; name one of images "
                f"x height x width x 3, as --input={printable(path)}:NAME"
            )
        shape, kind = file[name].shape, file[name].dtype
        # MATLAB marks what it writes, with all axes turned round.
        turned = "MATLAB_class" in file[name].attrs
    if turned and len(shape) == 3 and shape[0] in COLOURS:
        raise InputError(
            f"{where} is one image in colour, or {shape[0]} grey ones; give several of "
            "MATLAB's as height x width x 3 x images, and one as an image file"
        )
    if turned:
        shape = (shape[0], *shape[:0:-1])

    # Open as long as somebody reads: the library closes it then.
    opened = h5py.File(path, "r")[name]
    return shape, kind, lambda index: opened[index].T if turned else opened[index]
