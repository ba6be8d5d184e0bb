"""A run's network as an ONNX model or as named arrays for other libraries.

The layout is PyTorch's: kernels x channels x height x width, groups for towers, the
first fully connected layer's inputs flattened channels first, and no scaling behind
dropout.
"""

import json
from pathlib import Path

import jax
import numpy as np

from alexnet_jax.data import statistics
from alexnet_jax.data.decoding import RESIZES
from alexnet_jax.inference.trained import TrainedNetwork, open_trained
from alexnet_jax.interop.onnx_graph import Graph, add_network
from alexnet_jax.interop.weight_layout import PRODUCER, Layer, from_params
from alexnet_jax.runtime import atomic, optional
from alexnet_jax.runtime.atomic import writing
from alexnet_jax.runtime.errors import InputError, check_number


ENDINGS = (".onnx", ".safetensors")
# Of ONNX's operators: the version that is written, and the oldest that has them all.
OPSET, OLDEST_OPSET = 18, 13


def check_output(path: Path) -> str:
    """The ending of an output, in small letters.

    Raises:
      InputError: if it is another, or no file can be written there.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"--output={path} must end in {' or '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--output={path} can't be written: its folder isn't there")
    if path.is_dir():
        raise InputError(f"--output={path} is a folder; name a file")
    return path.suffix.lower()


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
    about = {"input": "RGB pixels of 0 to 255 less `mean`", **_metadata(member)}
    with writing(path):
        atomic.replace(path, safetensors.save(arrays, about))


def to_onnx(
    workdir: Path, checkpoint: str | int, path: Path, *, opset: int = OPSET
) -> None:
    """Write a model from `pixels` to `logits`.

    `pixels` are float32, images x 3 x crop x crop, RGB of 0 to 255; the mean image
    is subtracted in the model. Its description and metadata say so.

    Args:
      workdir: of a run.
      checkpoint: `best`, `latest` or a step.
      path: the file.
      opset: version of ONNX's operators.

    Raises:
      InputError: if there is no such checkpoint or version, or the package isn't
        installed.
    """
    onnx = optional.require("onnx", path)
    newest = onnx.defs.onnx_opset_version()
    check_number("--opset", opset, least=OLDEST_OPSET, below=newest + 1, whole=True)
    member = open_trained(workdir, checkpoint)
    graph = Graph(onnx, opset)
    crop = member.data.crop
    logits = add_network(graph, member.model, _layers(member), _mean(member), crop)
    kind, helper = onnx.TensorProto.FLOAT, onnx.helper
    convention = (
        f"float32, images x 3 x {crop} x {crop} (NCHW), RGB, from 0 to 255; the mean "
        "image is subtracted inside"
    )
    inputs = helper.make_tensor_value_info(
        "pixels", kind, ["images", 3, crop, crop], convention
    )
    shape = ["images", member.model.num_classes]
    outputs = helper.make_tensor_value_info(
        logits, kind, shape, "a number for each class, before the softmax"
    )
    made = helper.make_graph(
        graph.nodes, "alexnet", [inputs], [outputs], initializer=graph.constants
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        made,
        producer_name=PRODUCER,
        doc_string=f"AlexNet. Input `pixels`: {convention}. Output `logits`: one for "
        "each class, in the order of `class_names` in the metadata.",
        opset_imports=opsets,
        # The oldest form that has these operators, for runtimes that are not new.
        ir_version=helper.find_min_ir_version_for(opsets),
    )
    about = {"input": f"pixels: {convention}", **_metadata(member)}
    helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    with writing(path):
        atomic.replace(path, model.SerializeToString())


def _metadata(member: TrainedNetwork) -> dict[str, str]:
    """What an exported file says of its network: texts by name."""
    return {
        "class_names": json.dumps(member.data.class_names, ensure_ascii=False),
        "run": member.workdir.absolute().name,
        "step": str(member.step),
        "preset": member.preset or "none",
        "parameters_sha256": member.digest,
        "images": f"{RESIZES[member.data.resize]}, to {member.data.size} x "
        f"{member.data.size}; then the centre of {member.data.crop} x "
        f"{member.data.crop} cut out",
    }


def _layers(member: TrainedNetwork) -> list[Layer]:
    params = jax.device_get(member.plain_params)
    return from_params(member.model, params, member.data.crop)


def _mean(member: TrainedNetwork) -> np.ndarray:
    mean = statistics.mean_crop(member.data.statistics, member.data.crop)
    return np.ascontiguousarray(mean.transpose(2, 0, 1))
