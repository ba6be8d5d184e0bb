"""Do imported weights give their original logits here, from the file format on?

Random weights of the real shapes are written as a .caffemodel (both of Caffe's forms),
as ONNX, as a .pth by PyTorch and as safetensors, imported into work directories, and
loaded as a user would. The logits of random images are compared with those of the same
weights in PyTorch and in ONNX Runtime. Then our own network is exported as ONNX and
safetensors, and compared with itself.

    python experiments/weights/parity.py --output=FOLDER

Needs torch, onnx, onnxruntime and safetensors. `worst` is the largest difference of any
logit over the largest logit; it must be below 1e-4.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime  # pyright: ignore[reportMissingImports]
import safetensors.numpy
import torch  # pyright: ignore[reportMissingImports]
from onnx import helper, numpy_helper

import alexnet_jax
from alexnet_jax import load_config
from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.interop import export
from alexnet_jax.interop.importing import CAFFE, ORIGINS, import_weights
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import run_data
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import plain, section
from alexnet_jax.training import step as steps
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.schedule import make_schedule

import harness
from torch_networks import CAFFE_SHAPES, NAMES, OWT_SHAPES, by_torch, random_weights


IMAGES = 4
TORCHVISION = [f"features.{n}" for n in (0, 3, 6, 8, 10)]
TORCHVISION += [f"classifier.{n}" for n in (1, 4, 6)]


def write_onnx(path, layers, crop):
    """BVLC's graph, node by node."""
    nodes, constants, x = [], [], "data"

    def add(kind, inputs, **attributes):
        output = f"{kind}{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    for index, (name, (kernel, bias)) in enumerate(zip(NAMES, layers, strict=True)):
        for suffix, array in (("w", kernel), ("b", bias)):
            constants.append(numpy_helper.from_array(array, f"{name}_{suffix}_0"))
        if index == 5:
            x = add("Flatten", [x])
        inputs = [x, f"{name}_w_0", f"{name}_b_0"]
        if index >= 5:
            x = add("Gemm", inputs, transB=1)
            x = x if index == 7 else add("Relu", [x])
            continue
        around = 0 if index == 0 else kernel.shape[2] // 2
        stride = 4 if index == 0 else 1
        group = 2 if index in (1, 3, 4) else 1
        x = add("Conv", inputs, strides=[stride] * 2, pads=[around] * 4, group=group)
        x = add("Relu", [x])
        if index < 2:
            x = add("LRN", [x], size=5, alpha=1e-4, beta=0.75, bias=1.0)
        if index in (0, 1, 4):
            x = add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])
    kind = onnx.TensorProto.FLOAT
    data = helper.make_tensor_value_info("data", kind, ["n", 3, crop, crop])
    out = helper.make_tensor_value_info(x, kind, ["n", 1000])
    graph = helper.make_graph(nodes, "alexnet", [data], [out], initializer=constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 9
    onnx.save(made, path)


def by_onnx(path, pixels):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (inputs,) = session.get_inputs()
    return session.run(None, {inputs.name: pixels})[0]


def worst(ours, theirs):
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def ours(workdir, images):
    model, variables, preprocess, _ = alexnet_jax.load(workdir)
    return np.asarray(model.apply(variables, preprocess(images)))


def import_preset(path, workdir, preset):
    settings = plain(load_config("imagenet", preset))
    import_weights(path, workdir, settings, ORIGINS[preset])


def imports(folder, images):
    """Differences by preset and format."""
    # The module of the tests that writes the format by hand.
    from weight_files import caffemodel_bytes

    crop = 227
    layers = random_weights(CAFFE_SHAPES, 0)
    named = [(name, *layer) for name, layer in zip(NAMES, layers, strict=True)]
    start = (256 - crop) // 2
    cut = images[:, start : start + crop, start : start + crop].astype(np.float32)
    caffe = cut - np.asarray(CAFFE.mean, np.float32)
    caffe = np.ascontiguousarray(caffe[..., ::-1].transpose(0, 3, 1, 2))
    found = {}
    for preset, pool_first in (("caffe", False), ("caffenet", True)):
        theirs = by_torch(
            layers,
            caffe,
            groups=2,
            norm=(1e-4, 1.0),
            pool_first=pool_first,
            padding=0,
        )
        for legacy in (False, True):
            path = folder / f"{preset}{legacy:d}.caffemodel"
            path.write_bytes(caffemodel_bytes(named, legacy=legacy))
            import_preset(path, folder / path.stem, preset)
            what = f"{preset}, .caffemodel{' (old form)' if legacy else ''}, PyTorch"
            found[what] = worst(ours(folder / path.stem, images), theirs)
    path = folder / "bvlc.onnx"
    write_onnx(path, layers, crop)
    import_preset(path, folder / "bvlc", "caffe")
    theirs = by_onnx(path, caffe)
    found["caffe, .onnx, ONNX Runtime"] = worst(ours(folder / "bvlc", images), theirs)

    layers = random_weights(OWT_SHAPES, 1)
    origin = ORIGINS["owt"]
    owt = images[:, 16:240, 16:240].astype(np.float32) - np.asarray(
        origin.mean, np.float32
    )
    owt = (owt / np.asarray(origin.deviations, np.float32)).transpose(0, 3, 1, 2)
    theirs = by_torch(
        layers,
        np.ascontiguousarray(owt),
        groups=1,
        norm=None,
        pool_first=False,
        padding=2,
    )
    state = {}
    for name, (kernel, bias) in zip(TORCHVISION, layers, strict=True):
        state |= {f"{name}.weight": kernel, f"{name}.bias": bias}
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    torch.save(tensors, folder / "owt.pth")
    safetensors.numpy.save_file(state, folder / "owt.safetensors")
    for ending in ("pth", "safetensors"):
        workdir = folder / f"owt_{ending}"
        import_preset(folder / f"owt.{ending}", workdir, "owt")
        found[f"owt, .{ending}, PyTorch"] = worst(ours(workdir, images), theirs)
    return found


def exports(folder, images):
    """Our own two-tower network, as the 2012 code has it, with random weights."""
    workdir = folder / "code2012"
    settings = plain(load_config("imagenet"))
    model = AlexNet(num_classes=1000, **section(settings, "model"))
    workdir.mkdir()
    workdirs.start_run(workdir, settings)
    rng = np.random.default_rng(2)
    mean = rng.uniform(90, 130, (256, 256, 3)).astype(np.float32)
    names = tuple(map(str, range(1000)))
    statistics = Statistics(mean, np.ones(3), np.eye(3))
    run_data.write_data(workdir, run_data.Data(names, 256, 224, "drawn", statistics))
    mesh = meshes.one_device()
    optimizer = momentum_sgd(make_schedule(steps_per_epoch=1.0))
    state = steps.init_state(model, optimizer, mesh, 224, 0)
    # Logits of a fresh network hardly depend on the image.
    kernels = {
        name: {**layer, "kernel": 2 * layer["kernel"], "bias": 0.1 + 0 * layer["bias"]}
        for name, layer in state.params.items()
    }
    state = state._replace(params=kernels)
    with CheckpointWriter(workdir / workdirs.CHECKPOINTS) as checkpoints:
        checkpoints.save(0, state)
    export.to_onnx(workdir, "latest", folder / "ours.onnx")
    pixels = images[:, 16:240, 16:240].astype(np.float32).transpose(0, 3, 1, 2)
    expected = ours(workdir, images)
    found = worst(by_onnx(folder / "ours.onnx", np.ascontiguousarray(pixels)), expected)
    assert jnp.std(expected) > 0
    return {"code2012, to .onnx, ONNX Runtime": found}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="folder for the raw results")
    given = parser.parse_args()
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (IMAGES, 256, 256, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory(prefix="parity_") as name, torch.no_grad():
        found = imports(Path(name), images) | exports(Path(name), images)
    for what, value in found.items():
        print(f"{value:8.1e}  {what}", file=sys.stderr)
    result = {
        "experiment": "parity",
        "worst": max(found.values()),
        "differences": found,
        **harness.machine("jax", "torch", "onnx", "onnxruntime", "safetensors"),
    }
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "parity.json").write_text(json.dumps(result) + "\n")
    print(json.dumps(result))
    if result["worst"] > 1e-4:
        sys.exit(1)


if __name__ == "__main__":
    main()
