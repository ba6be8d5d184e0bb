"""A network as the nodes and constants of an ONNX model."""

from types import ModuleType

import numpy as np

from alexnet_jax.interop.weight_layout import Layer
from alexnet_jax.nn import convolution, lrn
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import POOLS, Conv


class Graph:
    """Nodes and constants of a model in the making."""

    def __init__(self, onnx: ModuleType, opset: int) -> None:
        self.nodes: list[object] = []
        self.constants: list[object] = []
        self._onnx = onnx
        self._opset = opset

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
        # From version 18 on, the number of equal parts is said.
        number = {"num_outputs": parts} if self._opset >= 18 else {}
        self._add("Split", [x], outputs, axis=1, **number)
        return outputs

    def mean(self, x: str, output: str) -> str:
        """The mean over channels, height and width."""
        axes = [1, 2, 3]
        if self._opset < 18:
            return self.add("ReduceMean", [x], output, axes=axes)
        given = self.constant(f"{output}.axes", np.asarray(axes, np.int64))
        return self.add("ReduceMean", [x, given], output)

    def _add(
        self, kind: str, inputs: list[str], outputs: list[str], **attributes: object
    ) -> None:
        node = self._onnx.helper.make_node(kind, inputs, outputs, **attributes)
        self.nodes.append(node)


def add_network(
    graph: Graph, model: AlexNet, layers: list[Layer], mean: np.ndarray, crop: int
) -> str:
    """Add a network's nodes from `pixels` on; returns the name of its logits.

    Args:
      graph: what is added to.
      model: the network.
      layers: its arrays in the other layout.
      mean: the mean image, channels first.
      crop: side of the images, in pixels.
    """
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
    graph: Graph, model: AlexNet, name: str, inputs: list[str], around: tuple[int, int]
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


def _standardize(graph: Graph, x: str, numbers: int) -> str:
    """`standardize.standardize`."""
    least = graph.constant("standardize.least", np.asarray(numbers**-0.5, np.float32))
    own = graph.mean(x, "standardize.mean")
    x = graph.add("Sub", [x, own], "standardize.centred")
    squares = graph.add("Mul", [x, x], "standardize.squares")
    variances = graph.mean(squares, "standardize.variances")
    deviations = graph.add("Sqrt", [variances], "standardize.deviations")
    divisors = graph.add("Max", [deviations, least], "standardize.divisors")
    return graph.add("Div", [x, divisors], "standardized")


def _step(graph: Graph, model: AlexNet, name: str, step: str, x: str) -> str:
    output = f"{name}.{step}"
    if step == "activation":
        kinds = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
        return graph.add(kinds[model.activation], [x], output)
    if step in POOLS:
        # Where a window hangs over the border, the mean is of the values inside.
        mean = {"count_include_pad": 0} if step == "average_pool" else {}
        return graph.add(
            "AveragePool" if mean else "MaxPool",
            [x],
            output,
            kernel_shape=[model.pool_window] * 2,
            strides=[model.pool_stride] * 2,
            ceil_mode=int(model.pool_partial),
            **mean,
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


def _same_map(graph: Graph, x: str, output: str) -> str:
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
