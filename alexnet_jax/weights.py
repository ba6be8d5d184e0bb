"""Weights of others into a work directory, and ours into files of others.

    python -m alexnet_jax.weights import --preset=caffe --workdir=DIR \\
        --input=bvlc_alexnet.caffemodel --classes=PREPARED
    python -m alexnet_jax.weights import --preset=owt --workdir=DIR \\
        --input=alexnet-owt-7be5be79.pth --classes=names.txt
    python -m alexnet_jax.weights export --workdir=DIR --output=alexnet.onnx

What is imported evaluates, predicts, gives features and is trained on like a run of our
own. Presets: `caffe` (BVLC AlexNet), `caffenet` (Caffe's reference network), `owt`
(torchvision's AlexNet). Formats: .caffemodel, .onnx, .pth, .safetensors, and .onnx and
.safetensors to export; ONNX and safetensors need `pip install onnx safetensors`.

The pixels a network takes are put into its first layer and its mean picture: BGR
becomes RGB, and torchvision's division by deviations goes into the kernels. Caffe
squeezes whole pictures to 256x256, where `prepare` and `predict` cut out the centre.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.data.prepared import manifest
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.interop import caffemodel, torch_pickle
from alexnet_jax.interop.export import to_onnx, to_safetensors
from alexnet_jax.interop.weight_layout import Layer, Origin, to_params
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import run_data
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import call, plain
from alexnet_jax.runs.config_file import load_config
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.cli import Parser, run_command
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.optional import require
from alexnet_jax.training import optimizer as optimizers
from alexnet_jax.training.schedule import make_schedule
from alexnet_jax.training.step import TrainState, abstract_state


CAFFE = Origin(227, True, (122.679, 116.669, 104.007), (1.0, 1.0, 1.0))
ORIGINS = {
    "caffe": CAFFE,
    "caffenet": CAFFE,
    "owt": Origin(
        224,
        False,
        (255 * 0.485, 255 * 0.456, 255 * 0.406),
        (255 * 0.229, 255 * 0.224, 255 * 0.225),
    ),
}
SIZE = 256


def import_weights(
    path: Path,
    workdir: Path,
    preset: str,
    *,
    class_names: Sequence[str] | None = None,
    mean: Path | None = None,
) -> int:
    """Make a work directory of a file of weights; returns how many parameters it has.

    Args:
      path: a .caffemodel, .onnx, .pth or .safetensors.
      workdir: that is not there yet, or empty.
      preset: a key of `ORIGINS`.
      class_names: of the outputs in their order; numbers if they are left out.
      mean: a .npy of Caffe's mean picture, 3 x 256 x 256 in BGR; else the channels'.

    Raises:
      InputError: if the file can't be read, or is of another network, with the layer
        that differs.
    """
    if preset not in ORIGINS:
        raise InputError(f"--preset={preset} unknown; choose from {', '.join(ORIGINS)}")
    if workdir.exists() and any(workdir.iterdir()):
        raise InputError(f"--workdir={workdir} is not empty; choose another")
    origin = ORIGINS[preset]
    layers = read_layers(path)
    config = load_config("imagenet", preset)
    classes = len(layers[-1].bias)
    names = tuple(class_names or map(str, range(classes)))
    if len(names) != classes:
        raise InputError(
            f"{path} tells {classes} classes apart, and {len(names)} were named"
        )
    settings = plain(config)
    model: AlexNet = call(settings, "model", num_classes=classes)
    params = to_params(model, layers, origin, where=str(path))
    statistics = Statistics(_mean(mean, origin), np.zeros(3), np.eye(3))
    workdirs.create(workdir)
    workdirs.start_run(workdir, settings)
    run_data.write_data(
        workdir,
        run_data.Data(names, SIZE, origin.crop, f"weights of {path.name}", statistics),
    )
    schedule = make_schedule(steps_per_epoch=1.0)
    optimizer = optimizers.momentum_sgd(schedule)
    mesh = meshes.one_device()
    params = jax.tree.map(jnp.asarray, params)
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    abstract = abstract_state(model, optimizer, mesh, origin.crop)
    state = jax.device_put(state, jax.tree.map(lambda array: array.sharding, abstract))
    with CheckpointWriter(workdir / workdirs.CHECKPOINTS) as checkpoints:
        checkpoints.save(0, state)
    return sum(array.size for array in jax.tree.leaves(params))


def _mean(path: Path | None, origin: Origin) -> np.ndarray:
    if path is None:
        return np.full((SIZE, SIZE, 3), origin.mean, np.float32)
    try:
        mean = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--mean={path} can't be read ({error})") from error
    if mean.shape != (3, SIZE, SIZE) or not np.isfinite(mean).all():
        raise InputError(
            f"--mean={path} has shape {mean.shape}; Caffe's has (3, {SIZE}, {SIZE})"
        )
    return np.ascontiguousarray(mean[::-1].transpose(1, 2, 0), np.float32)


def read_layers(path: Path) -> list[Layer]:
    """The convolutions and fully connected layers of a file, in order.

    Raises:
      InputError: if it can't be read, or its ending is unknown.
    """
    if path.suffix not in READERS:
        raise InputError(
            f"{path} is of no known format; choose from {', '.join(READERS)}"
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
    """A fully connected layer's, which older files give as 1 x 1 x outputs x inputs."""
    legacy = array.ndim == 4 and array.shape[:2] == (1, 1)
    return array.reshape(array.shape[2:]) if legacy else array


def _from_state(arrays: Mapping[str, np.ndarray], path: Path) -> list[Layer]:
    """Of a dictionary with `NAME.weight` and `NAME.bias`."""
    layers = []
    for name, kernel in arrays.items():
        stem, _, kind = name.rpartition(".")
        if kind != "weight":
            continue
        if f"{stem}.bias" not in arrays:
            raise InputError(f"{path} has no bias for layer {stem}")
        layers.append(Layer(stem, kernel, arrays[f"{stem}.bias"]))
    return layers


def _from_pth(path: Path) -> list[Layer]:
    return _from_state(torch_pickle.read(path), path)


def _from_safetensors(path: Path) -> list[Layer]:
    safetensors = require("safetensors.numpy", path)
    try:
        arrays = safetensors.load(path.read_bytes())
    except Exception as error:
        # Its own kinds are not all exported.
        raise InputError(f"{path} is cut off or damaged ({error})") from error
    # It sorts by name; torchvision's names have numbers in them.
    order = sorted(arrays, key=lambda name: [_number(p) for p in name.split(".")])
    return _from_state({name: arrays[name] for name in order}, path)


def _number(part: str) -> tuple[bool, int, str]:
    known = {"features": 0, "classifier": 1}
    if part in known:
        return False, known[part], ""
    return (False, int(part), "") if part.isdecimal() else (True, 0, part)


def _from_onnx(path: Path) -> list[Layer]:
    onnx = require("onnx", path)
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:
        # Of the protocol buffers' kinds.
        raise InputError(f"{path} is cut off or no ONNX file ({error})") from error
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
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        if node.op_type == "Gemm" and not turned:
            kernel = kernel.T
        layers.append(Layer(name, kernel, bias))
    return layers


READERS: dict[str, Callable[[Path], list[Layer]]] = {
    ".caffemodel": _from_caffemodel,
    ".onnx": _from_onnx,
    ".pth": _from_pth,
    ".safetensors": _from_safetensors,
}


def class_names_of(path: Path) -> tuple[str, ...]:
    """Class names out of a prepared data set, or of a file with one in every line.

    Raises:
      InputError: if it is neither.
    """
    if path.is_dir():
        return manifest.read_manifest(path).class_names
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes={path} can't be read ({error})") from error
    return tuple(line.strip() for line in lines if line.strip())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser("weights", description=__doc__)
    ways = parser.add_subparsers(dest="way", required=True)
    into = ways.add_parser("import", help="a file of weights into a work directory")
    into.add_argument("--preset", required=True, choices=tuple(ORIGINS))
    into.add_argument("--input", type=Path, required=True, metavar="FILE")
    into.add_argument("--workdir", type=Path, required=True, metavar="DIR")
    into.add_argument(
        "--classes",
        type=Path,
        metavar="PREPARED|FILE",
        help="names of the classes: a prepared data set, or a file of lines",
    )
    into.add_argument(
        "--mean", type=Path, metavar="FILE.npy", help="Caffe's mean picture"
    )
    out = ways.add_parser("export", help="a run's weights into a file")
    out.add_argument("--workdir", type=Path, required=True, metavar="DIR")
    out.add_checkpoint()
    out.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=".onnx, .safetensors"
    )
    given = parser.parse_args(arguments)
    if given.way == "import":
        names = None if given.classes is None else class_names_of(given.classes)
        count = import_weights(
            given.input, given.workdir, given.preset, class_names=names, mean=given.mean
        )
        progress.print_result({"workdir": str(given.workdir), "parameters": count})
        return
    writers = {".onnx": to_onnx, ".safetensors": to_safetensors}
    if given.output.suffix not in writers:
        raise InputError(f"--output={given.output} must end in .onnx or .safetensors")
    writers[given.output.suffix](given.workdir, given.checkpoint, given.output)
    progress.print_result({"output": str(given.output)})


if __name__ == "__main__":
    run_command(main)
