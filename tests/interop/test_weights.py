"""Weights of other libraries in our layout, against ONNX's reference evaluator."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alexnet_jax
from alexnet_jax import load_config
from alexnet_jax.inference.ensemble import evaluate
from alexnet_jax.interop import export, onnx_graph, weight_layout
from alexnet_jax.interop.importing import import_weights
from alexnet_jax.interop.readers import read_layers
from alexnet_jax.interop.weight_layout import Origin
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import Conv, Dense
from alexnet_jax.nn.presets import NO_EXCHANGE
from alexnet_jax.runs.config import plain
from alexnet_jax.runtime.errors import InputError

from weight_files import (
    CAFFE,
    OWT,
    PLAIN,
    SMALL,
    caffemodel_bytes,
    evaluate_onnx,
    evaluated,
    random_layers,
    small,
)


def applied(model, params, pixels):
    return jax.jit(model.apply)({"params": jax.tree.map(jnp.asarray, params)}, pixels)


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


def random_params(model, crop):
    images = jax.ShapeDtypeStruct((1, crop, crop, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.random(x.shape, np.float32), shapes)


def test_between_towers_that_do_not_see_each_other_weights_are_zero():
    layers = weight_layout.from_params(FC7_ALONE, random_params(FC7_ALONE, 67), 67)
    fc6 = layers[5].kernel
    assert not fc6[:12, fc6.shape[1] // 2 :].any()
    assert not fc6[12:, : fc6.shape[1] // 2].any()
    assert fc6[:12, : fc6.shape[1] // 2].all()


@pytest.mark.parametrize("model", [small("code2012"), OWT, CAFFE])
def test_layouts_there_and_back(model):
    crop = 64 if model is OWT else 67
    params = random_params(model, crop)
    layers = weight_layout.from_params(model, params, crop)
    again = weight_layout.to_params(
        model, layers, PLAIN._replace(crop=crop), where="file"
    )
    jax.tree.map(np.testing.assert_array_equal, dict(again), dict(params))


@pytest.mark.slow
def test_averages_are_exported_also_of_windows_over_the_border():
    onnx = pytest.importorskip("onnx")
    then = ("activation", "average_pool")
    rows = {"conv1": Conv(4, 3, then=then), "fc2": Dense(then=())}
    model = AlexNet(num_classes=3, layers=rows, towers=1, pool_partial=True)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), pixels)["params"]
    params = jax.tree.map(
        lambda array: rng.normal(size=array.shape).astype(np.float32), shapes
    )
    graph = onnx_graph.Graph(onnx, 18)
    layers = weight_layout.from_params(model, params, 8)
    mean = np.zeros((3, 8, 8), np.float32)
    logits = onnx_graph.add_network(graph, model, layers, mean, 8)
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("pixels", (2, 3, 8, 8)), (logits, (2, 3)))
    ]
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "net", values[:1], values[1:], graph.constants
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
    )
    theirs = evaluate_onnx(made, pixels.transpose(0, 3, 1, 2))
    close(applied(model, params, pixels), theirs)


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


@pytest.mark.slow
@pytest.mark.parametrize(("standardize", "opset"), [(False, 18), (True, 13)])
def test_what_is_exported_gives_our_logits(tmp_path, standardize, opset):
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
    ours = jax.jit(model.apply)(variables, pixels - np.asarray([9, 8, 7], np.float32))
    path = tmp_path / "net.onnx"
    export.to_onnx(workdir, "best", path, opset=opset)
    made = onnx.load(path)
    assert [imported.version for imported in made.opset_import] == [opset]
    for images in (pixels, pixels[:1]):
        # A dynamic batch.
        theirs = evaluate_onnx(made, images.transpose(0, 3, 1, 2))
        close(ours[: len(images)], theirs)
    export.to_safetensors(workdir, "best", tmp_path / "net.safetensors")
    data = (tmp_path / "net.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert header["conv2.weight"]["shape"] == [16, 4, 5, 5]
    for exported in (path, tmp_path / "net.safetensors"):
        # Its pixels are ours already, and a preset's would be built in once more.
        with pytest.raises(InputError, match="was exported by alexnet_jax"):
            read_layers(exported)
    about = {entry.key: entry.value for entry in made.metadata_props}
    for said in (about, header["__metadata__"]):
        assert json.loads(said["class_names"]) == list(names)
        assert "RGB" in said["input"]
    for convention in (made.doc_string, made.graph.input[0].doc_string, about["input"]):
        assert "images x 3 x 67 x 67 (NCHW), RGB, from 0 to 255" in convention
        assert "mean image is subtracted inside" in convention
    with pytest.raises(InputError, match="is not empty"):
        import_weights(file, workdir, settings, origin)
    with pytest.raises(InputError, match="its data are; give --data_path=PATH"):
        evaluate([workdir])
