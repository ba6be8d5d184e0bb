"""Weights of other libraries, from the file on, against ONNX's reference evaluator."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alexnet_jax
from alexnet_jax import load_config
from alexnet_jax.inference.ensemble import evaluate
from alexnet_jax.interop import caffemodel, export, torch_pickle, weight_layout
from alexnet_jax.interop.importing import import_weights
from alexnet_jax.interop.readers import read_layers
from alexnet_jax.interop.weight_layout import Layer, Origin
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import changed
from alexnet_jax.nn.presets import CODE2012, NO_EXCHANGE, PRESETS
from alexnet_jax.runs.config import plain
from alexnet_jax.runtime.errors import InputError


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


def small(name, **rows):
    """A preset's network, made small; `rows` changes more of single rows."""
    layers = changed(PRESETS[name].get("layers", CODE2012), **SMALL)
    return AlexNet.from_preset(name, num_classes=7, layers=changed(layers, **rows))


CAFFE, OWT = small("caffe"), small("owt")


def random_layers(model, crop, seed=0, scale=0.1):
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


def evaluate_onnx(made, pixels):
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


def evaluated(onnx, layers, pixels, *, groups, norm=None, pool_first=False, padding=0):
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


def applied(model, params, pixels):
    return model.apply({"params": jax.tree.map(jnp.asarray, params)}, pixels)


def close(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert np.std(theirs) > 0
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("model", "reference"),
    [
        (CAFFE, {"groups": 2, "norm": (1e-4, 1.0)}),
        (
            small("caffenet"),
            {"groups": 2, "norm": (1e-4, 1.0), "pool_first": True},
        ),
        (OWT, {"groups": 1, "padding": 2}),
    ],
    ids=["caffe", "caffenet", "owt"],
)
def test_a_network_of_others_gives_their_logits(model, reference):
    onnx = pytest.importorskip("onnx")
    crop = 64 if model is OWT else 67
    layers = random_layers(model, crop)
    origin = PLAIN._replace(crop=crop)
    params = weight_layout.to_params(model, layers, origin, where="file")
    pixels = np.random.default_rng(1).normal(0, 70, (3, crop, crop, 3))
    pixels = pixels.astype(np.float32)
    _, theirs = evaluated(onnx, layers, pixels.transpose(0, 3, 1, 2), **reference)
    close(applied(model, params, pixels), theirs)


def test_blue_first_and_divided_pixels():
    model = OWT
    layers = random_layers(model, 64)
    params = weight_layout.to_params(
        model, layers, PLAIN._replace(crop=64), where="file"
    )
    origin = Origin(64, True, (0.0, 0.0, 0.0), (2.0, 4.0, 8.0))
    turned = weight_layout.to_params(model, layers, origin, where="file")
    rng = np.random.default_rng(1)
    pixels = rng.normal(0, 70, (2, 64, 64, 3)).astype(np.float32)
    divided = (pixels / np.asarray([2.0, 4.0, 8.0], np.float32))[..., ::-1]
    close(
        applied(model, turned, pixels),
        applied(model, params, divided),
    )


FC7_ALONE = small("code2012", **{**NO_EXCHANGE, "fc7": {"exchange": True}})


@pytest.mark.parametrize("model", [small("code2012"), FC7_ALONE, OWT, CAFFE])
def test_layouts_there_and_back(model):
    crop = 64 if model is OWT else 67
    images = jax.ShapeDtypeStruct((1, crop, crop, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.random(x.shape, np.float32), shapes)
    layers = weight_layout.from_params(model, params, crop)
    if model is FC7_ALONE:
        # Of towers that do not see each other, what lies between them is zero.
        fc6 = layers[5].kernel
        assert not fc6[:12, fc6.shape[1] // 2 :].any()
        assert not fc6[12:, : fc6.shape[1] // 2].any()
        return
    again = weight_layout.to_params(
        model, layers, PLAIN._replace(crop=crop), where="file"
    )
    jax.tree.map(np.testing.assert_array_equal, dict(again), dict(params))


def test_the_layer_that_differs_is_named():
    model = CAFFE
    layers = random_layers(model, 67)
    wider = random_layers(small("caffe", fc6={"width": 32}), 67)
    with pytest.raises(InputError, match=r"layer fc6 has kernels of \(32, .*fc6 has"):
        weight_layout.to_params(model, wider, PLAIN, where="file")
    with pytest.raises(InputError, match="has 7 layers with weights"):
        weight_layout.to_params(model, layers[:-1], PLAIN, where="file")
    layers[2].kernel[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="layer conv3 has numbers not finite"):
        weight_layout.to_params(model, layers, PLAIN, where="file")


# A .caffemodel, written by hand.
def varint(value):
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array, legacy):
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


def caffemodel_bytes(layers, *, legacy=False):
    layer_field, name_field, blob_field = caffemodel.LAYER_FORMS[legacy]
    message = field(1, b"AlexNet")
    for name, *arrays in layers:
        blobs = b"".join(field(blob_field, blob(a, legacy)) for a in arrays)
        message += field(layer_field, field(name_field, name.encode()) + blobs)
        # Layers without weights, and fields that the reader does not know.
        message += field(layer_field, field(name_field, b"relu") + b"\x50\x01")
    return message


@pytest.mark.parametrize("legacy", [False, True])
def test_a_caffemodel(tmp_path, legacy):
    layers = random_layers(CAFFE, 67)
    path = tmp_path / "net.caffemodel"
    data = caffemodel_bytes(layers, legacy=legacy)
    path.write_bytes(data)
    read = read_layers(path)
    assert [layer.name for layer in read] == [layer.name for layer in layers]
    for found, expected in zip(read, layers, strict=True):
        np.testing.assert_array_equal(found.kernel, expected.kernel)
        np.testing.assert_array_equal(found.bias, expected.bias)
    for length in (len(data) // 2, len(data) - 3):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="is cut off or no .caffemodel"):
            read_layers(path)


# A .pth, written by hand: no PyTorch here.
class FloatStorage:
    pass


FloatStorage.__module__, FloatStorage.__qualname__ = "torch", "FloatStorage"


class Tensor:
    def __init__(self, array, key):
        self.array, self.key = array, key

    def __reduce__(self):
        strides = tuple(s // 4 for s in self.array.strides)
        storage = Storage(self.key, self.array.size)
        arguments = (storage, 0, self.array.shape, strides, False, OrderedDict())
        return Rebuild, arguments


class Storage:
    def __init__(self, key, numbers):
        self.key, self.numbers = key, numbers


def Rebuild():
    pass


Rebuild.__module__, Rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"


class Writer(pickle._Pickler):
    """Writes names of modules that are not installed."""

    if TYPE_CHECKING:
        # Methods of the pickler in Python that its types leave out.
        write: Callable[[bytes], object]
        memoize: Callable[[object], None]

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", FloatStorage, obj.key, "cpu", obj.numbers)
        return None

    def save_global(self, value, name=None):
        self.write(b"c" + f"{value.__module__}\n{value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch: ClassVar[dict[type, Callable[..., None]]] = {
        **pickle._Pickler.dispatch,
        type(Rebuild): save_global,
        type: save_global,
    }


def pth(path, state):
    file = io.BytesIO()
    tensors = OrderedDict(
        (name, Tensor(array, str(key)))
        for key, (name, array) in enumerate(state.items())
    )
    # As Module.state_dict() has it.
    vars(tensors)["_metadata"] = OrderedDict({"": {"version": 1}})
    Writer(file, protocol=2).dump(tensors)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", file.getvalue())
        for key, array in enumerate(state.values()):
            archive.writestr(f"net/data/{key}", array.tobytes())


def torchvision_state(layers):
    names = [f"features.{n}" for n in (0, 3, 6, 8, 10)]
    names += [f"classifier.{n}" for n in (1, 4, 6)]
    state = {}
    for name, layer in zip(names, layers, strict=True):
        state |= {f"{name}.weight": layer.kernel, f"{name}.bias": layer.bias}
    return state


def test_a_pth_and_a_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    layers = random_layers(OWT, 64)
    state = torchvision_state(layers)
    pth(tmp_path / "net.pth", state)
    safetensors.save_file(state, tmp_path / "net.safetensors")
    for ending in ("pth", "safetensors"):
        path = tmp_path / f"net.{ending}"
        read = read_layers(path)
        assert [layer.name for layer in read][:2] == ["features.0", "features.3"]
        for found, expected in zip(read, layers, strict=True):
            np.testing.assert_array_equal(found.kernel, expected.kernel)
            np.testing.assert_array_equal(found.bias, expected.bias)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match="is cut off"):
            read_layers(path)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, protocol):
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps({"a": Evil()}, protocol))
    with pytest.raises(InputError, match=r"asks for \w+.exec, .*may run anything"):
        torch_pickle.read(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="no .pth as PyTorch"):
        torch_pickle.read(path)


def pickled(path, program):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", program)
    return path


@pytest.mark.parametrize(
    ("program", "instruction"),
    [
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        (b"(icollections\nOrderedDict\n.", "INST"),
        (b"(ccollections\nOrderedDict\no.", "OBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x04C\x01a.", "SHORT_BINBYTES"),
        # Refused before the name in front of it is looked up.
        (b"cos\nsystem\n(S'true'\ntR.", "STRING"),
    ],
)
def test_instructions_that_tensors_do_not_need_are_refused(
    tmp_path, program, instruction
):
    path = pickled(tmp_path / "net.pth", program)
    with pytest.raises(
        InputError, match=f"has an instruction {instruction}, .*refused"
    ):
        torch_pickle.read(path)


REBUILD_NAME = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "program",
    [
        # Known names that are called with what is no storage, or are no functions.
        REBUILD_NAME + b"(K\x01K\x00))tR.",
        b"ctorch\nFloatStorage\n)R.",
        b"}(X\x01\x00\x00\x00a" + REBUILD_NAME + b"(}K\x00))tRu.",
        # A place in memory for which the standard library would take 64 GB.
        b"}r\xff\xff\xff\xff.",
        # Cut off; without a value; of something that is no dictionary to be filled.
        b"}(X\x01\x00\x00\x00a",
        b".",
        b"NK\x01K\x02s.",
    ],
)
def test_damaged_programs_are_refused_in_one_line(tmp_path, program):
    path = pickled(tmp_path / "net.pth", program)
    with pytest.raises(InputError, match="is damaged") as error:
        torch_pickle.read(path)
    assert "\n" not in str(error.value)


def test_one_file_does_not_change_how_the_next_is_read(tmp_path):
    """BUILD sets attributes, of a function too: here its defaults, to (1, 2, 3, 4)."""
    defaults = b"(X\x0c\x00\x00\x00__defaults__(K\x01K\x02K\x03K\x04td"
    defaults = defaults.replace(b"(X", b"}X", 1).replace(b"td", b"ts")
    program = REBUILD_NAME + b"N" + defaults + b"\x86b)R."
    path = pickled(tmp_path / "net.pth", program)
    with pytest.raises(InputError, match="is damaged"):
        torch_pickle.read(path)
    good = tmp_path / "good.pth"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    pth(good, {"a.weight": array})
    np.testing.assert_array_equal(torch_pickle.read(good)["a.weight"], array)


def test_names_that_are_refused_stay_on_one_line(tmp_path):
    program = b"\x80\x04\x8c\x03o\ns\x8c\x06system\x93."
    path = pickled(tmp_path / "net.pth", program)
    with pytest.raises(InputError, match=r"asks for o\\ns\.system, ") as error:
        torch_pickle.read(path)
    assert "\n" not in str(error.value)


def test_a_tensor_that_repeats_a_number_without_end_is_refused(tmp_path):
    path = tmp_path / "net.pth"
    array = np.zeros((44, 1), np.float32)
    pth(path, {"a.weight": array})
    with zipfile.ZipFile(path) as archive:
        program = archive.read("net/data.pkl")
    # 44 rows become 2 to the 40, at a stride of 0.
    assert program.count(b"K,K\x01") == 1
    program = program.replace(b"K,K\x01", b"\x8a\x06\0\0\0\0\0\x01K\x01")
    assert program.count(b"K\x01K\x01\x86") == 1
    program = program.replace(b"K\x01K\x01\x86", b"K\x00K\x00\x86")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", program)
        archive.writestr("net/data/0", array.tobytes())
    with pytest.raises(InputError, match="is larger than a network's"):
        torch_pickle.read(path)


def test_tensors_that_reach_past_their_numbers_are_refused(tmp_path):
    path = tmp_path / "net.pth"
    array = np.zeros((4, 4), np.float32)
    pth(path, {"a.weight": array})
    with zipfile.ZipFile(path) as archive:
        program = archive.read("net/data.pkl")
    # The shape of 4 by 4 becomes one of 4 by 44.
    assert program.count(b"K\x04K\x04") == 1
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", program.replace(b"K\x04K\x04", b"K\x04K\x2c"))
        archive.writestr("net/data/0", array.tobytes())
    with pytest.raises(InputError, match="damaged"):
        torch_pickle.read(path)


def test_an_onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    layers = random_layers(CAFFE, 67)
    pixels = np.zeros((1, 3, 67, 67), np.float32)
    made, _ = evaluated(onnx, layers, pixels, groups=2, norm=(1e-4, 1.0))
    path = tmp_path / "net.onnx"
    onnx.save(made, path)
    for found, expected in zip(read_layers(path), layers, strict=True):
        np.testing.assert_array_equal(found.kernel, expected.kernel)
        np.testing.assert_array_equal(found.bias, expected.bias)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="is cut off or no ONNX"):
        read_layers(path)


@pytest.mark.parametrize("standardize", [False, True])
def test_what_is_exported_gives_our_logits(tmp_path, standardize):
    """From a file of weights to a work directory, to ONNX and through the reference
    evaluator."""
    onnx = pytest.importorskip("onnx")
    file, workdir = tmp_path / "x.caffemodel", tmp_path / "run"
    file.write_bytes(caffemodel_bytes(random_layers(small("code2012"), 67)))
    config = load_config("imagenet", "code2012")
    config.model.layers.update(SMALL)
    config.model.standardize = standardize
    config.data.crop = 67
    settings = plain(config)
    origin = PLAIN._replace(mean=(9.0, 8, 7))
    with pytest.raises(InputError, match="--mean=.*none.npy can't be read"):
        import_weights(file, workdir, settings, origin, mean=tmp_path / "none.npy")
    with pytest.raises(InputError, match="has 7 classes, and 2 names were given"):
        import_weights(file, workdir, settings, origin, class_names=["a", "b"])
    count = import_weights(file, workdir, settings, origin)
    model, variables, _, names = alexnet_jax.load(workdir)
    assert count == sum(a.size for a in jax.tree.leaves(variables["params"]))
    assert names == tuple("0123456")
    pixels = np.random.default_rng(1).uniform(0, 255, (3, 67, 67, 3))
    pixels = pixels.astype(np.float32)
    ours = model.apply(variables, pixels - np.asarray([9, 8, 7], np.float32))
    path = tmp_path / "net.onnx"
    export.to_onnx(workdir, "best", path)
    theirs = evaluate_onnx(onnx.load(path), pixels.transpose(0, 3, 1, 2))
    close(ours, theirs)
    export.to_safetensors(workdir, "best", tmp_path / "net.safetensors")
    data = (tmp_path / "net.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert header["conv2.weight"]["shape"] == [16, 4, 5, 5]
    with pytest.raises(InputError, match="is not empty"):
        import_weights(file, workdir, settings, origin)
    with pytest.raises(InputError, match="its data are; give --data_path=PATH"):
        evaluate([workdir])
