"""A run's network as an ONNX model or as named arrays for other libraries.

The layout is PyTorch's: kernels x channels x height x width, groups for towers, the
first fully connected layer's inputs flattened channels first, and no scaling behind
dropout.
"""

from pathlib import Path
from types import ModuleType

import jax
import numpy as np

from alexnet_jax.data import statistics
from alexnet_jax.inference.trained import TrainedNetwork, open_trained
from alexnet_jax.interop.weight_layout import Layer, from_params
from alexnet_jax.nn import convolution, lrn
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import Conv
from alexnet_jax.runtime import atomic, optional
from alexnet_jax.runtime.atomic import writing


OPSET = 18
IR_VERSION = 9


def to_safetensors(workdir: Path, checkpoint: str | int, path: Path) -> None:
    """Write `NAME.weight` and `NAME.bias` of every layer, and the mean image.

    Raises:
      InputError: if there is no such checkpoint, or the package isn't installed.
    """
    safetensors = optional.require("safetensors.numpy", path)
    member = open_trained(workdir, checkpoint)
    arrays = {"mean": _mean(member)}
    for name, kernel, bias in _layers(member):
        arrays |= {f"{name}.weight": kernel, f"{name}.bias": bias}
    with writing(path):
        atomic.replace(path, safetensors.save(arrays))


def to_onnx(workdir: Path, checkpoint: str | int, path: Path) -> None:
    """Write a model from `pixels` to `logits`.

    `pixels` are float32, images x 3 x crop x crop, RGB of 0 to 255; the mean image
    is subtracted in the model.

    Raises:
      InputError: if there is no such checkpoint, or the package isn't installed.
    """
    onnx = optional.require("onnx", path)
    member = open_trained(workdir, checkpoint)
    graph = _Graph(onnx)
    crop = member.data.crop
    logits = _network(graph, member.model, _layers(member), _mean(member), crop)
    kind, helper = onnx.TensorProto.FLOAT, onnx.helper
    inputs = helper.make_tensor_value_info("pixels", kind, ["images", 3, crop, crop])
    shape = ["images", member.model.num_classes]
    outputs = helper.make_tensor_value_info(logits, kind, shape)
    made = helper.make_graph(
        graph.nodes, "alexnet", [inputs], [outputs], initializer=graph.constants
    )
    model = helper.make_model(
        made,
        producer_name="alexnet_jax",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    with writing(path):
        atomic.replace(path, model.SerializeToString())


def _layers(member: TrainedNetwork) -> list[Layer]:
    params = jax.device_get(member.plain_params)
    return from_params(member.model, params, member.data.crop)


def _mean(member: TrainedNetwork) -> np.ndarray:
    mean = statistics.mean_crop(member.data.statistics, member.data.crop)
    return np.ascontiguousarray(mean.transpose(2, 0, 1))


class _Graph:
    """Nodes and constants of a model in the making."""

    def __init__(self, onnx: ModuleType) -> None:
        self.nodes: list[object] = []
        self.constants: list[object] = []
        self._onnx = onnx

    def constant(self, name: str, value: np.ndarray) -> str:
        """A constant; returns its name."""
        self.constants.append(self._onnx.numpy_helper.from_array(value, name))
        return name

    def add(
        self, kind: str, inputs: list[str], output: str, **attributes: object
    ) -> str:
        """A node with one output; returns its name."""
        self._add(kind, inputs, [output], name=output, **attributes)
        return output

    def split(self, x: str, parts: int) -> list[str]:
        """Channels in equal parts."""
        outputs = [f"{x}.tower{part}" for part in range(parts)]
        self._add("Split", [x], outputs, axis=1, num_outputs=parts)
        return outputs

    def _add(
        self, kind: str, inputs: list[str], outputs: list[str], **attributes: object
    ) -> None:
        node = self._onnx.helper.make_node(kind, inputs, outputs, **attributes)
        self.nodes.append(node)


def _network(
    graph: _Graph, model: AlexNet, layers: list[Layer], mean: np.ndarray, crop: int
) -> str:
    x = graph.add("Sub", ["pixels", graph.constant("mean", mean[None])], "centred")
    x = _standardize(graph, x, mean.size) if model.standardize else x
    side = crop + model.image_padding
    after = iter(model.sizes(crop) or [])
    flat = False
    for name, kernel, bias in layers:
        row = model.layers[name]
        weights = [
            graph.constant(f"{name}.weight", kernel),
            graph.constant(f"{name}.bias", bias),
        ]
        if isinstance(row, Conv):
            around = convolution.padding(side, row.kernel, row.stride)
            x = _convolution(graph, model, name, [x, *weights], around)
            side = next(after)
        else:
            x = x if flat else graph.add("Flatten", [x], "flat")
            flat = True
            output = "logits" if row.width is None else f"{name}.linear"
            x = graph.add("Gemm", [x, *weights], output, transB=1)
        for step in row.then:
            # The kernels behind dropout are scaled instead; see `weight_layout`.
            x = x if step == "dropout" else _step(graph, model, name, step, x)
    return x


def _convolution(
    graph: _Graph, model: AlexNet, name: str, inputs: list[str], around: tuple[int, int]
) -> str:
    row = model.layers[name]
    assert isinstance(row, Conv)
    first = name == "conv1"
    before, behind = around
    before += model.image_padding if first else 0
    return graph.add(
        "Conv",
        inputs,
        f"{name}.linear",
        kernel_shape=[row.kernel, row.kernel],
        strides=[row.stride, row.stride],
        pads=[before, before, behind, behind],
        group=1 if first or row.exchange else model.towers,
    )


def _standardize(graph: _Graph, x: str, numbers: int) -> str:
    """`standardize.standardize`."""
    axes = graph.constant("standardize.axes", np.asarray([1, 2, 3], np.int64))
    least = graph.constant("standardize.least", np.asarray(numbers**-0.5, np.float32))
    own = graph.add("ReduceMean", [x, axes], "standardize.mean")
    x = graph.add("Sub", [x, own], "standardize.centred")
    squares = graph.add("Mul", [x, x], "standardize.squares")
    variances = graph.add("ReduceMean", [squares, axes], "standardize.variances")
    deviations = graph.add("Sqrt", [variances], "standardize.deviations")
    divisors = graph.add("Max", [deviations, least], "standardize.divisors")
    return graph.add("Div", [x, divisors], "standardized")


def _step(graph: _Graph, model: AlexNet, name: str, step: str, x: str) -> str:
    output = f"{name}.{step}"
    if step == "activation":
        kinds = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
        return graph.add(kinds[model.activation], [x], output)
    if step == "pool":
        return graph.add(
            "MaxPool",
            [x],
            output,
            kernel_shape=[model.pool_window] * 2,
            strides=[model.pool_stride] * 2,
            ceil_mode=int(model.pool_partial),
        )
    if step == "same_map_norm":
        return _same_map(graph, x, output)
    parts = 1 if model.norm_across_towers else model.towers
    pieces = graph.split(x, parts) if parts > 1 else [x]
    constants = {
        "size": model.norm_size,
        "alpha": model.norm_alpha * model.norm_size,
        "beta": model.norm_beta,
        "bias": model.norm_k,
    }
    normed = [
        graph.add("LRN", [piece], f"{output}{place}", **constants)
        for place, piece in enumerate(pieces)
    ]
    return graph.add("Concat", normed, output, axis=1) if parts > 1 else normed[0]


def _same_map(graph: _Graph, x: str, output: str) -> str:
    """`lrn.same_map_norm`, whose sum is that of a mean that counts the border."""
    side = lrn.SAME_MAP_SIZE
    around = side // 2
    squares = graph.add("Mul", [x, x], f"{output}.squares")
    means = graph.add(
        "AveragePool",
        [squares],
        f"{output}.means",
        kernel_shape=[side, side],
        pads=[around] * 4,
        strides=[1, 1],
        count_include_pad=1,
    )

    def number(name: str, value: float) -> str:
        return graph.constant(f"{output}.{name}", np.asarray(value, np.float32))

    alpha = number("alpha", side**2 * lrn.SAME_MAP_ALPHA)
    scaled = graph.add("Mul", [means, alpha], f"{output}.scaled")
    k = number("k", lrn.SAME_MAP_K)
    energy = graph.add("Add", [scaled, k], f"{output}.energy")
    beta = number("beta", -lrn.SAME_MAP_BETA)
    factor = graph.add("Pow", [energy, beta], f"{output}.factor")
    return graph.add("Mul", [x, factor], output)
