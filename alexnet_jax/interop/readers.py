"""Files of weights as layers in order: a reader for each format, chosen by the ending.

ONNX and safetensors files need their packages (the extra `weights`); .caffemodel and
.pth are read here, without Caffe or PyTorch. No reader runs what a file holds.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from alexnet_jax.interop import caffemodel, torch_pickle
from alexnet_jax.interop.weight_layout import Layer
from alexnet_jax.runtime.errors import InputError, first_line
from alexnet_jax.runtime.optional import require


def read_layers(path: Path) -> list[Layer]:
    """The convolutions and fully connected layers of a file, in order.

    Raises:
      InputError: if the file can't be read, or its ending is unknown.
    """
    if path.suffix not in READERS:
        raise InputError(
            f"{path} is in no known format; choose from {', '.join(READERS)}"
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    layers = READERS[path.suffix](path)
    if not layers:
        raise InputError(f"{path} has no layers with weights")
    return layers


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
    safetensors = require("safetensors.numpy", path)
    try:
        arrays = safetensors.load(path.read_bytes())
    except Exception as error:
        # Its own exceptions are not all exported.
        raise InputError(
            f"{path} is cut off or damaged ({first_line(error)})"
        ) from error
    # A safetensors file is sorted by name as text, features.10 before features.3.
    order = sorted(arrays, key=lambda name: [_rank(part) for part in name.split(".")])
    return _from_state_dict({name: arrays[name] for name in order}, path)


def _rank(part: str) -> tuple[bool, int, str]:
    """Orders the parts of torchvision's names: features before classifier, then numbers
    by value, then everything else by the alphabet."""
    known = {"features": 0, "classifier": 1}
    if part in known:
        return False, known[part], ""
    return (False, int(part), "") if part.isdecimal() else (True, 0, part)


def _from_state_dict(arrays: Mapping[str, np.ndarray], path: Path) -> list[Layer]:
    """Layers of a dictionary with `NAME.weight` and `NAME.bias`, in its order."""
    layers = []
    for name, kernel in arrays.items():
        stem, _, kind = name.rpartition(".")
        if kind != "weight":
            continue
        if f"{stem}.bias" not in arrays:
            raise InputError(f"{path} has no bias for layer {stem}")
        layers.append(Layer(stem, kernel, arrays[f"{stem}.bias"]))
    return layers


def _from_onnx(path: Path) -> list[Layer]:
    onnx = require("onnx", path)
    try:
        # A file could name any other file of the machine as the place of its arrays.
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:
        # The exceptions are those of the protocol buffers' implementation.
        raise InputError(
            f"{path} is cut off or no ONNX file ({first_line(error)})"
        ) from error
    arrays = {array.name: array for array in graph.initializer}
    layers = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        name = node.name or node.output[0]
        missing = [i for i in node.input[1:] if i not in arrays]
        if missing or len(node.input) != 3:
            raise InputError(f"{path}: layer {name} has no kernel and bias in the file")
        if any(arrays[i].HasField("data_location") for i in node.input[1:]):
            raise InputError(f"{path}: layer {name} lies in another file; refused")
        kernel, bias = (onnx.numpy_helper.to_array(arrays[i]) for i in node.input[1:])
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        if node.op_type == "Gemm" and not transposed:
            kernel = kernel.T
        layers.append(Layer(name, kernel, bias))
    return layers


READERS: dict[str, Callable[[Path], list[Layer]]] = {
    ".caffemodel": _from_caffemodel,
    ".onnx": _from_onnx,
    ".pth": lambda path: _from_state_dict(torch_pickle.read(path), path),
    ".safetensors": _from_safetensors,
}
