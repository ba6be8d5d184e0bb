"""Files of weights as other libraries write them, made without these libraries."""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from alexnet_jax.interop import caffemodel, weight_layout
from alexnet_jax.interop.weight_layout import Layer, Origin
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import changed
from alexnet_jax.nn.presets import CODE2012, PRESETS


SMALL = {
    "conv1": {"channels": 8},
    "conv2": {"channels": 16},
    "conv3": {"channels": 8},
    "conv4": {"channels": 16},
    "conv5": {"channels": 8},
    "fc6": {"width": 24},
    "fc7": {"width": 16},
}
PLAIN = Origin(67, False, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def small(name: str, **rows: Mapping[str, object]) -> AlexNet:
    """A preset's network, made small; `rows` changes more of single rows."""
    layers = changed(PRESETS[name].get("layers", CODE2012), **SMALL)
    return AlexNet.from_preset(name, num_classes=7, layers=changed(layers, **rows))


CAFFE, OWT = small("caffe"), small("owt")


def random_layers(
    model: AlexNet, crop: int, seed: int = 0, scale: float = 0.1
) -> list[Layer]:
    """Layers in the other layout, scaled so that signals neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    shape = (1, crop, crop, 3)
    params = jax.eval_shape(model.init, jax.random.key(0), np.zeros(shape, np.float32))
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), params["params"])
    layers = []
    for name, kernel, bias in weight_layout.from_params(model, zeros, crop):
        fan_in = np.prod(kernel.shape[1:])
        layers.append(
            Layer(
                name,
                rng.normal(0, 1 / fan_in**0.5, kernel.shape).astype(np.float32),
                rng.normal(0, scale, bias.shape).astype(np.float32),
            )
        )
    return layers


def evaluate_onnx(made: Any, pixels: np.ndarray) -> np.ndarray:
    """By ONNX's reference evaluator, but for its LRN, which in version 1.23 goes over
    the images where it should go over the channels."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class LRN(OpRun):
        def _run(self, x, alpha=None, beta=None, bias=None, size=None):
            assert alpha is not None and beta is not None
            assert bias is not None and size is not None
            y = np.empty_like(x)
            for c in range(x.shape[1]):
                around = x[:, max(0, c - size // 2) : c + size // 2 + 1]
                energy = bias + alpha / size * (around**2).sum(axis=1)
                y[:, c] = x[:, c] / energy**beta
            return (y,)

    outputs = ReferenceEvaluator(made, new_ops=[LRN]).run(None, {"pixels": pixels})
    assert isinstance(outputs, list)
    return outputs[0]


def evaluated(
    onnx: Any,
    layers: Sequence[Layer],
    pixels: np.ndarray,
    *,
    groups: int,
    norm: tuple[float, float] | None = None,
    pool_first: bool = False,
    padding: int = 0,
) -> tuple[Any, np.ndarray]:
    """The network as its own framework has it, node by node, without our exporter."""
    from onnx import helper, numpy_helper

    nodes, constants = [], []

    def add(kind, inputs, **attributes):
        output = f"v{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def lrn(x):
        assert norm is not None
        return add("LRN", [x], size=5, alpha=norm[0], beta=0.75, bias=norm[1])

    def pool(x):
        return add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])

    x = "pixels"
    for index, (name, kernel, bias) in enumerate(layers):
        for suffix, array in (("w", kernel), ("b", bias)):
            constants.append(numpy_helper.from_array(array, f"{name}.{suffix}"))
        if index == 5:
            x = add("Flatten", [x])
        names = [x, f"{name}.w", f"{name}.b"]
        if index < 5:
            stride = 4 if index == 0 else 1
            around = padding if index == 0 else kernel.shape[2] // 2
            group = groups if index in (1, 3, 4) else 1
            x = add("Conv", names, strides=[stride] * 2, pads=[around] * 4, group=group)
            x = add("Relu", [x])
            steps = [lrn, pool] if norm and index < 2 else [pool]
            if index in (0, 1, 4):
                for step in reversed(steps) if pool_first else steps:
                    x = step(x)
        else:
            x = add("Gemm", names, transB=1)
            if index < 7:
                x = add("Relu", [x])
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info("pixels", kind, pixels.shape)],
        [helper.make_tensor_value_info(x, kind, None)],
        initializer=constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 9
    return made, evaluate_onnx(made, pixels)


# A .caffemodel, written by hand.
def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, legacy: bool) -> bytes:
    data = field(5, array.astype("<f4").tobytes())
    if legacy:
        shape = (1,) * (4 - array.ndim) + array.shape
        return (
            b"".join(
                varint(n << 3) + varint(side) for n, side in enumerate(shape, start=1)
            )
            + data
        )
    return field(7, field(1, b"".join(map(varint, array.shape)))) + data


def caffemodel_bytes(
    layers: Sequence[tuple[Any, ...]], *, legacy: bool = False
) -> bytes:
    layer_field, name_field, blob_field = caffemodel.LAYER_FORMS[legacy]
    message = field(1, b"AlexNet")
    for name, *arrays in layers:
        blobs = b"".join(field(blob_field, blob(a, legacy)) for a in arrays)
        message += field(layer_field, field(name_field, name.encode()) + blobs)
        # Layers without weights, and fields that the reader does not know.
        message += field(layer_field, field(name_field, b"relu") + b"\x50\x01")
    return message


# A file of torch.save, written by hand: no PyTorch here.
class FloatStorage:
    __module__, __qualname__ = "torch", "FloatStorage"


class BFloat16Storage:
    __module__, __qualname__ = "torch", "BFloat16Storage"


class Storage:
    """Numbers of the zip. The bits of bfloat16 are given as uint16."""

    def __init__(self, key: str, array: np.ndarray) -> None:
        self.key, self.numbers = key, array.size
        self.kind = BFloat16Storage if array.dtype == np.uint16 else FloatStorage


class Tensor:
    def __init__(self, array: np.ndarray, key: str) -> None:
        self.array, self.key = array, key

    def __reduce__(self) -> tuple[Callable[[], None], tuple[object, ...]]:
        strides = tuple(s // self.array.itemsize for s in self.array.strides)
        storage = Storage(self.key, self.array)
        arguments = (storage, 0, self.array.shape, strides, False, OrderedDict())
        return rebuild, arguments


def rebuild() -> None:
    pass


rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"


class Writer(pickle._Pickler):
    """Writes names of modules that are not installed."""

    if TYPE_CHECKING:
        # Methods of the pickler in Python that its types leave out.
        write: Callable[[bytes], object]
        memoize: Callable[[object], None]

    def persistent_id(self, obj: object) -> tuple[object, ...] | None:
        if isinstance(obj, Storage):
            return ("storage", obj.kind, obj.key, "cpu", obj.numbers)
        return None

    def save_global(self, value: Any, name: str | None = None) -> None:
        self.write(b"c" + f"{value.__module__}\n{value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch: ClassVar[dict[type, Callable[..., None]]] = {
        **pickle._Pickler.dispatch,
        type(rebuild): save_global,
        type: save_global,
    }


def pth(
    path: Path,
    state: Mapping[str, np.ndarray],
    around: Callable[[object], object] = lambda tensors: tensors,
    protocol: int = 2,
) -> None:
    """A file of arrays by name; `around` puts them into what else is saved."""
    file = io.BytesIO()
    tensors = OrderedDict(
        (name, Tensor(array, str(key)))
        for key, (name, array) in enumerate(state.items())
    )
    # As Module.state_dict() has it.
    vars(tensors)["_metadata"] = OrderedDict({"": {"version": 1}})
    Writer(file, protocol).dump(around(tensors))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", file.getvalue())
        for key, array in enumerate(state.values()):
            archive.writestr(f"net/data/{key}", array.tobytes())


def legacy_pth(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """A file as PyTorch wrote it before 1.6, with a tensor beside the state."""
    file = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        Writer(file, 2).dump(value)
    every = {**state, "momentum": np.zeros(3, np.float32)}
    tensors = OrderedDict(
        (name, Tensor(array, str(key)))
        for key, (name, array) in enumerate(every.items())
    )
    momentum = tensors.pop("momentum")
    Writer(file, 2).dump({"epoch": 9, "state_dict": tensors, "optimizer": [momentum]})
    Writer(file, 2).dump([*map(str, range(len(every)))])
    for array in every.values():
        file.write(np.int64(array.size).tobytes() + array.tobytes())
    path.write_bytes(file.getvalue())


def torchvision_state(layers: Sequence[Layer]) -> dict[str, np.ndarray]:
    names = [f"features.{n}" for n in (0, 3, 6, 8, 10)]
    names += [f"classifier.{n}" for n in (1, 4, 6)]
    state = {}
    for name, layer in zip(names, layers, strict=True):
        state |= {f"{name}.weight": layer.kernel, f"{name}.bias": layer.bias}
    return state


def bfloat16_bits(array: np.ndarray) -> np.ndarray:
    """The upper halves of float32, as uint16: rounded towards zero."""
    return (array.view(np.uint32) >> 16).astype(np.uint16)
