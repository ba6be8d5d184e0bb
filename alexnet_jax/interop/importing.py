"""A work directory made of a file of weights, as if a run had saved them at step 0."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.checkpoint.checkpointer import CheckpointWriter
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.interop.mean_image import mean_image
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
CAFFE = Origin(227, True, (122.679, 116.669, 104.007), (1.0, 1.0, 1.0), "squash")
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
        "torchvision",
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
    mean: str | Path | None = None,
) -> int:
    """Make a work directory of a file of weights.

    Args:
      path: a .caffemodel, .onnx, .safetensors, or a file of `torch.save`.
      workdir: must not exist yet, or be empty.
      settings: a config as plain data, with the network of these weights.
      origin: the pixels that the weights take; see `ORIGINS`.
      class_names: of the outputs in their order; numbers if they are left out.
      mean: a file of the mean image, or three numbers; see `mean_image`. Else the
        origin's mean of each channel.

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
    names = tuple(map(str, range(classes)) if class_names is None else class_names)
    if len(names) != classes:
        raise InputError(
            f"{path} has {classes} classes, and {len(names)} names were given; give "
            "the names of the classes that these weights were trained on"
        )
    model = AlexNet(num_classes=classes, **section(settings, "model"))
    params = to_params(model, layers, origin, where=str(path))
    # No colour shift: the statistics of the images they were trained on are not known.
    image = mean_image(mean, origin, SIZE)
    statistics = Statistics(image, np.zeros(3), np.eye(3))
    data = Data(
        names,
        SIZE,
        origin.crop,
        f"weights of {path.name}",
        statistics,
        resize=origin.resize,
    )
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
