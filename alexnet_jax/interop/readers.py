"""Files of weights as layers in order: a reader for each format, chosen by the ending.

ONNX and safetensors files need their packages (the extra `weights`); .caffemodel and
PyTorch's files are read here, without Caffe or PyTorch. No reader runs what a file
holds.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from alexnet_jax.data.decoding import POINTERS
from alexnet_jax.interop import caffemodel, onnx_file, torch_legacy, torch_pickle
from alexnet_jax.interop.weight_layout import EXPORTED_HERE, Layer, from_bfloat16
from alexnet_jax.runtime.errors import InputError, first_line
from alexnet_jax.runtime.optional import require


# NumPy's names for the numbers of safetensors; other types are no weights.
SAFETENSORS_TYPES = {
    "BF16": "<u2",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I64": "<i8",
}


def read_layers(path: Path) -> list[Layer]:
    """The convolutions and fully connected layers of a file, in order.

    Raises:
      InputError: if the file can't be read, or its ending is unknown.
    """
    name = path.name.lower()
    ending = next((ending for ending in READERS if name.endswith(ending)), None)
    if ending is None:
        raise InputError(
            f"{path} is in no known format; choose from {', '.join(READERS)}"
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    _check_whole(path)
    layers = READERS[ending](path)
    if not layers:
        raise InputError(f"{path} has no layers with weights")
    return layers


def _check_whole(path: Path) -> None:
    """Raise an InputError if a file is what a download leaves in its place."""
    with path.open("rb") as file:
        begin = file.read(512).lstrip()
    if begin.startswith(POINTERS):
        raise InputError(f"{path} stands for a file; fetch that (`git lfs pull`)")
    if begin.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"{path} is a web page; download the file itself again")
    if not begin:
        raise InputError(f"{path} is empty; download it again")


def _from_caffemodel(path: Path) -> list[Layer]:
    return [
        Layer(name, _matrix(arrays[0]), arrays[1].reshape(-1))
        for name, arrays in caffemodel.read(path)
        if len(arrays) == 2
    ]


def _matrix(array: np.ndarray) -> np.ndarray:
    """A fully connected layer's kernel, which older files give as 1 x 1 x outputs x
    inputs."""
    legacy = array.ndim == 4 and array.shape[:2] == (1, 1)
    return array.reshape(array.shape[2:]) if legacy else array


def _from_safetensors(path: Path) -> list[Layer]:
    safetensors = require("safetensors", path)
    try:
        # Not its reader for NumPy, which has no bfloat16. Sorted: it keeps no order.
        arrays = {
            name: _numbers(stored["data"], stored["dtype"]).reshape(stored["shape"])
            for name, stored in sorted(
                safetensors.deserialize(path.read_bytes()), key=lambda pair: pair[0]
            )
            if stored["dtype"] in SAFETENSORS_TYPES
        }
    except Exception as error:
        # Its own exceptions are not all exported.
        raise InputError(
            f"{path} is cut off or damaged ({first_line(error)})"
        ) from error
    # As `export` writes it, beside the layers.
    if "mean" in arrays:
        raise InputError(f"{path} {EXPORTED_HERE}")
    return _from_state_dict(arrays, path)


def _numbers(data: bytes | bytearray, kind: str) -> np.ndarray:
    numbers = np.frombuffer(data, SAFETENSORS_TYPES[kind])
    return from_bfloat16(numbers) if kind == "BF16" else numbers


def _from_torch(path: Path) -> list[Layer]:
    form = torch_legacy if torch_legacy.is_legacy(path) else torch_pickle
    return _from_state_dict(form.read(path), path)


def _rank(part: str) -> tuple[int, int, str]:
    """Orders the parts of torchvision's names: features first and classifier last,
    numbers by value, everything else by the alphabet."""
    if part in ("features", "classifier"):
        return (0 if part == "features" else 3), 0, ""
    return (1, int(part), "") if part.isdecimal() else (2, 0, part)


def _from_state_dict(arrays: Mapping[str, np.ndarray], path: Path) -> list[Layer]:
    """Layers of a dictionary with `NAME.weight` and `NAME.bias`, in its order.

    A dictionary that is sorted by name as text, features.10 before features.3, as a
    safetensors file is, is brought into the network's order.
    """
    names = list(arrays)
    if names == sorted(names):
        names.sort(key=lambda name: [_rank(part) for part in name.split(".")])
    layers = []
    for name in names:
        stem, _, kind = name.rpartition(".")
        if kind != "weight":
            continue
        if f"{stem}.bias" not in arrays:
            raise InputError(f"{path} has no bias for layer {stem}")
        layers.append(Layer(stem, arrays[name], arrays[f"{stem}.bias"]))
    return layers


# By the end of a file's name, in small letters.
READERS: dict[str, Callable[[Path], list[Layer]]] = {
    ".caffemodel": _from_caffemodel,
    ".onnx": onnx_file.read,
    ".safetensors": _from_safetensors,
    **dict.fromkeys((".pth", ".pth.tar", ".pt", ".bin", ".ckpt"), _from_torch),
}
