"""The layers of an ONNX file, whose arrays may lie in a file beside it."""

from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import numpy as np

from alexnet_jax.interop.weight_layout import EXPORTED_HERE, PRODUCER, Layer
from alexnet_jax.runtime.errors import InputError, first_line
from alexnet_jax.runtime.optional import require


# A message of ONNX, whose types are made when the package is imported.
Message = Any


def read(path: Path) -> list[Layer]:
    """The convolutions and fully connected layers of a model, in its order.

    Raises:
      InputError: if it is cut off, a layer has no kernel or bias, or an array lies
        outside of the folder.
    """
    onnx = require("onnx", path)
    try:
        # The arrays of other files are read below: a model could name any file of the
        # machine as their place.
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        # The exceptions are those of the protocol buffers' implementation.
        raise InputError(
            f"{path} is cut off or no ONNX file ({first_line(error)})"
        ) from error
    graph = model.graph
    if model.producer_name == PRODUCER:
        raise InputError(f"{path} {EXPORTED_HERE}")
    arrays = {array.name: array for array in graph.initializer}
    readers = {name: node for node in graph.node for name in node.input}
    layers = []
    for node in graph.node:
        name = node.name or (node.output[0] if node.output else "")
        inputs = list(node.input[1:])
        if node.op_type == "MatMul":
            # A matrix product and a sum are one layer.
            after = readers.get(node.output[0])
            if after is None or after.op_type != "Add":
                raise InputError(f"{path}: layer {name} has no bias")
            inputs += [i for i in after.input if i != node.output[0]]
        elif node.op_type not in ("Conv", "Gemm"):
            continue
        if len(inputs) != 2 or any(i not in arrays for i in inputs):
            raise InputError(f"{path}: layer {name} has no kernel and bias in the file")
        kernel, bias = (_array(onnx, arrays[i], path) for i in inputs)
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        if node.op_type != "Conv" and not transposed:
            kernel = kernel.T
        layers.append(Layer(name, kernel, bias))
    return layers


def _array(onnx: Any, array: Message, path: Path) -> np.ndarray:
    """An array of a model, in float32."""
    try:
        if array.data_location == onnx.TensorProto.EXTERNAL:
            array = _with_data(onnx, array, path)
        return onnx.numpy_helper.to_array(array).astype(np.float32)
    except InputError:
        raise
    except Exception as error:
        # ONNX raises many kinds where length, type and shape don't fit.
        raise InputError(
            f"{path}: array {array.name} can't be read ({first_line(error)})"
        ) from error


def _with_data(onnx: Any, array: Message, path: Path) -> Message:
    """An array with its numbers, which lie in a plain file of the model's folder."""
    place = {entry.key: entry.value for entry in array.external_data}
    location = place.get("location", "")
    file = path.parent / location
    names = {PurePath(location).name, PureWindowsPath(location).name}
    # A link could lead anywhere.
    if names != {location} or file.is_symlink():
        raise InputError(
            f"{path}: array {array.name} lies in {location!a}, which is not a plain "
            "file in the same folder; refused"
        )
    if not file.is_file():
        raise InputError(f"{path} needs the file {file} beside it, which is missing")
    whole = onnx.TensorProto()
    whole.CopyFrom(array)
    del whole.external_data[:]
    whole.data_location = onnx.TensorProto.DEFAULT
    with file.open("rb") as data:
        data.seek(int(place.get("offset", 0)))
        whole.raw_data = data.read(int(place.get("length", -1)))
    return whole
