"""A work directory made of a file of weights, as if a run had saved them at step 0."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.data.prepared import manifest
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.interop.readers import read_layers
from alexnet_jax.interop.weight_layout import Origin, to_params
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import Sections, section
from alexnet_jax.runs.run_data import Data, write_data
from alexnet_jax.runtime import clutter
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import optimizer as optimizers
from alexnet_jax.training.schedule import make_schedule
from alexnet_jax.training.step import TrainState, abstract_state


# Caffe's means of ImageNet's channels, as RGB; it feeds BGR, not divided.
CAFFE = Origin(227, True, (122.679, 116.669, 104.007), (1.0, 1.0, 1.0))
# By preset: what its published weights take as pixels.
ORIGINS = {
    "caffe": CAFFE,
    "caffenet": CAFFE,
    # torchvision's transforms, which work on pixels of 0 to 1.
    "owt": Origin(
        224,
        False,
        (255 * 0.485, 255 * 0.456, 255 * 0.406),
        (255 * 0.229, 255 * 0.224, 255 * 0.225),
    ),
}
# Side of the stored images that the crops are cut from, in pixels.
SIZE = 256


def import_weights(
    path: Path,
    workdir: Path,
    settings: Sections,
    origin: Origin,
    *,
    class_names: Sequence[str] | None = None,
    mean: Path | None = None,
) -> int:
    """Make a work directory of a file of weights.

    Args:
      path: a .caffemodel, .onnx, .pth or .safetensors.
      workdir: must not exist yet, or be empty.
      settings: a config as plain data, with the network of these weights.
      origin: the pixels that the weights take; see `ORIGINS`.
      class_names: of the outputs in their order; numbers if they are left out.
      mean: a .npy of Caffe's mean image, 3 x 256 x 256 in BGR; else the origin's mean
        of each channel.

    Returns:
      The number of parameters.

    Raises:
      InputError: if the file can't be read, or is of another network; the message
        names the layer that differs.
    """
    if workdir.exists() and clutter.without(workdir.iterdir()):
        raise InputError(f"--workdir={workdir} is not empty; choose another")
    # Shapes alone are asked of JAX below, which opens its devices as well.
    meshes.open_devices()
    layers = read_layers(path)
    classes = len(layers[-1].bias)
    names = tuple(class_names or map(str, range(classes)))
    if len(names) != classes:
        raise InputError(
            f"{path} has {classes} classes, and {len(names)} names were given; give "
            "the names of the classes that these weights were trained on"
        )
    model = AlexNet(num_classes=classes, **section(settings, "model"))
    params = to_params(model, layers, origin, where=str(path))
    # No colour shift: the statistics of the images they were trained on are not known.
    statistics = Statistics(_mean_image(mean, origin), np.zeros(3), np.eye(3))
    data = Data(names, SIZE, origin.crop, f"weights of {path.name}", statistics)
    workdirs.create(workdir)
    workdirs.start_run(workdir, settings)
    write_data(workdir, data)
    _save(model, params, workdir, origin.crop)
    return sum(array.size for array in jax.tree.leaves(params))


def _save(
    model: AlexNet,
    params: Mapping[str, Mapping[str, np.ndarray]],
    workdir: Path,
    crop: int,
) -> None:
    """Save a checkpoint of step 0, whose optimizer has not moved yet."""
    optimizer = optimizers.momentum_sgd(make_schedule(steps_per_epoch=1.0))
    params = jax.tree.map(jnp.asarray, params)
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    abstract = abstract_state(model, optimizer, meshes.one_device(), crop)
    state = jax.device_put(state, jax.tree.map(lambda array: array.sharding, abstract))
    with CheckpointWriter(workdir / workdirs.CHECKPOINTS) as checkpoints:
        checkpoints.save(0, state)


def _mean_image(
    path: Path | None, origin: Origin
) -> Float[np.ndarray, "height width 3"]:
    """What is subtracted from RGB pixels of 0 to 255."""
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
    # BGR, channels first, to RGB, channels last.
    return np.ascontiguousarray(mean[::-1].transpose(1, 2, 0), np.float32)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names from a prepared data set, or from a text file with one on each line.

    Raises:
      InputError: if the path is neither.
    """
    if path.is_dir():
        return manifest.read_manifest(path).class_names
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes={path} can't be read ({error})") from error
    return tuple(line.strip() for line in lines if line.strip())
