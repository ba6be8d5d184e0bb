"""A trained network, opened from its work directory."""

import dataclasses
import functools
import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from alexnet_jax.checkpoint import integrity
from alexnet_jax.checkpoint.reader import CheckpointReader
from alexnet_jax.data import statistics
from alexnet_jax.data.decoding import RESIZES
from alexnet_jax.data.loading.pipeline import Pipeline, open_pipeline
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import placement
from alexnet_jax.inference import image_input
from alexnet_jax.inference.reduction import pool
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.presets import PRESETS
from alexnet_jax.runs import pretrained
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import plain, section
from alexnet_jax.runs.run_data import Data, read_data
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.runtime.paths import local
from alexnet_jax.training import compilation
from alexnet_jax.training import step as steps
from alexnet_jax.training.preprocess import cut_views
from alexnet_jax.training.step import Batch


# Arrays by layer and name.
Params = dict[str, dict[str, Array]]


class Loaded(NamedTuple):
    """A trained network. Unpacks into its four parts."""

    model: AlexNet
    variables: dict[str, Params]
    preprocess: Callable[..., Float[np.ndarray, "batch crop crop 3"]]
    class_names: tuple[str, ...]


@dataclasses.dataclass(eq=False)
class TrainedNetwork:
    """A run and one of its checkpoints. Made by `open_trained`.

    Attributes:
      workdir: of the run.
      config: its sections.
      data: class names, sizes and statistics of its data.
      step: of the checkpoint; once it is restored, of the one that has taken its place
        if a running training has deleted it meanwhile.
      checkpoint: which one was asked for: `best`, `latest` or a step.
      dtype: type of the computation; None for the run's own.
      seed: where it is given, the parameters are the initial ones of that seed, and the
        step is 0.
    """

    workdir: Path
    config: Mapping[str, Mapping[str, object]]
    data: Data
    step: int
    checkpoint: str | int
    dtype: str | None = None
    seed: int | None = None

    @functools.cached_property
    def model(self) -> AlexNet:
        """The network."""
        settings = section(self.config, "model")
        if self.dtype is not None:
            settings = {**settings, "dtype": self.dtype}
        return AlexNet(num_classes=len(self.data.class_names), **settings)

    @property
    def preset(self) -> str | None:
        """The preset whose network this is; None where it is none's."""
        usual = self.model.clone(
            dtype=AlexNet.dtype, implementation=AlexNet.implementation
        )
        classes = usual.num_classes
        for name in PRESETS:
            if AlexNet.from_preset(name, num_classes=classes) == usual:
                return name
        return None

    @property
    def flipped(self) -> bool:
        """Whether it was trained with horizontal flips."""
        return bool(self.config["data"].get("flip", Pipeline.flip))

    @property
    def data_path(self) -> str | None:
        """Where its data were in training; None where they need no path."""
        path = self.config["data"].get("path")
        return None if path is None else str(path)

    def open_data(self, path: str | None) -> Pipeline:
        """Open its data where they are now.

        Raises:
          InputError: if they can't be opened.
        """
        data = {**self.config["data"], "path": path}
        return open_pipeline(**section({"data": data}, "data"))

    @property
    def mean(self) -> Float[np.ndarray, "crop crop 3"]:
        """The mean image's centre, which is subtracted from every crop."""
        return statistics.mean_crop(self.data.statistics, self.data.crop)

    def abstract_params(self, mesh: Mesh) -> PyTree:
        """Shapes, types and shardings of the parameters."""
        return steps.abstract_params(self.model, mesh, self.data.crop)

    def params(self, mesh: Mesh) -> Params:
        """The parameters, restored or initialised onto a mesh."""
        if self.seed is not None:
            nothing, crop = optax.identity(), self.data.crop
            return steps.init_state(self.model, nothing, mesh, crop, self.seed).params
        abstract = self.abstract_params(mesh)
        checkpoints = CheckpointReader(self.workdir / workdirs.CHECKPOINTS)
        self.step, state = checkpoints.restore_chosen(
            self.step, self.checkpoint, {"params": abstract}
        )
        return state["params"]

    @functools.cached_property
    def plain_params(self) -> Params:
        """The parameters on one device, with no mesh or sharding in sight."""
        return jax.device_put(jax.device_get(self.params(meshes.one_device())))

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of all parameters, by name."""
        whole = hashlib.sha256()
        for name, digest in sorted(integrity.digests(self.plain_params).items()):
            whole.update(f"{name} {digest.tobytes().hex()}\n".encode())
        return whole.hexdigest()

    def all_devices(self) -> Mesh:
        """The mesh of all devices along "data", with whole towers on each."""
        return meshes.open_mesh(towers=self.model.towers, tower=1)

    def evaluator(
        self, mesh: Mesh, views: int
    ) -> Callable[[Batch], tuple[dict[str, Array], Array]]:
        """The step of `step.make_eval_step` as a function of a batch.

        The flipped views are left out if training was without flips.
        """
        mean = jax.device_put(self.mean, placement.replicated(mesh))
        params = self.params(mesh)
        evaluate = steps.make_eval_step(
            self.model, mesh, crop=self.data.crop, views=views, mirrors=self.flipped
        )
        return lambda batch: evaluate(params, batch, mean)

    def extractor(
        self, mesh: Mesh, layers: Sequence[str], pooling: str | None = None
    ) -> Callable[[Batch], dict[str, Array]]:
        """A function from a batch to layers of the centre crops, in float32.

        Layers are named as in `AlexNet.features`; the mesh has no tower axis. Maps may
        be pooled; see `reduction.pool`.
        """
        model, crop, names = self.model, self.data.crop, tuple(layers)

        def local(params: Params, batch: Batch, mean: Array) -> dict[str, Array]:
            centre = cut_views(batch["image"], crop=crop, views=1)[:, 0]
            centre = centre.astype(jnp.float32) - mean[None]
            outputs: PyTree = model.apply({"params": params}, centre, layers=names)
            kept = {n: x.astype(jnp.float32) for n, x in outputs[1].items()}
            return {name: pool(x, pooling) for name, x in kept.items()}

        # Parameters lie whole on every device, so the network needs no tower axis.
        whole = placement.replicated(mesh)
        params, mean = jax.device_put((self.plain_params, self.mean), whole)
        run = jax.jit(
            meshes.sharded(
                local,
                mesh,
                in_specs=(meshes.EVERYWHERE, meshes.EXAMPLES, meshes.EVERYWHERE),
                out_specs=meshes.EXAMPLES,
            ),
            compiler_options=dict(compilation.of_program(mesh)),
        )
        return lambda batch: run(params, batch, mean)


def open_untrained(
    workdir: Path, seed: int, dtype: str | None = None
) -> TrainedNetwork:
    """A run's network with its preprocessing and the initial parameters of a seed: the
    same bits as a training of that seed starts with.

    Raises:
      InputError: if there is no run.
    """
    _check_workdir(workdir)
    config = plain(workdirs.read_config(workdir))
    return TrainedNetwork(workdir, config, read_data(workdir), 0, 0, dtype, seed)


def open_trained(
    workdir: Path, checkpoint: str | SupportsIndex, dtype: str | None = None
) -> TrainedNetwork:
    """Open a run and the checkpoint asked for: `best`, `latest` or a step.

    It computes in `dtype`, or as it was trained where that is None.

    Raises:
      InputError: if there is no run or no such checkpoint.
    """
    _check_workdir(workdir)
    config = plain(workdirs.read_config(workdir))
    which = _which(checkpoint)
    if not (workdir / workdirs.CHECKPOINTS).is_dir():
        raise InputError(
            f"no checkpoint in {workdir}; train with "
            f"`python -m alexnet_jax.main --config=NAME --workdir={workdir}`"
        )
    step = CheckpointReader(workdir / workdirs.CHECKPOINTS).find(which)
    return TrainedNetwork(workdir, config, read_data(workdir), step, which, dtype)


def _check_workdir(workdir: Path) -> None:
    """Raise an InputError if this is a folder within a work directory."""
    if (workdir / workdirs.CONFIG_FILE).exists():
        return
    for above in workdir.absolute().parents[:2]:
        if (above / workdirs.CONFIG_FILE).is_file():
            raise InputError(
                f"{workdir} is a part of the work directory {above}; give that one, "
                "and the checkpoint's step beside it"
            )


def say_resize(network: TrainedNetwork) -> None:
    """Print how images become squares, if it is not this library's way."""
    if network.data.resize != Data.resize:
        progress.say(f"images: {RESIZES[network.data.resize]}")


def _which(checkpoint: str | SupportsIndex) -> str | int:
    """`best`, `latest` or a step, which may be text or a number of NumPy."""
    if checkpoint in ("best", "latest"):
        return str(checkpoint)
    try:
        if isinstance(checkpoint, str):
            return int(checkpoint)
        if not isinstance(checkpoint, bool):
            return operator.index(checkpoint)
    except (TypeError, ValueError):
        pass
    raise InputError(f"--checkpoint={checkpoint} must be best, latest or a step")


def load(workdir: str | Path, checkpoint: str | SupportsIndex = "best") -> Loaded:
    """The network of a work directory, ready to use on one device.

    >>> model, variables, preprocess, class_names = alexnet_jax.load("run")
    >>> logits = model.apply(variables, preprocess(["cat.jpg"]))
    >>> logits, features = model.apply(variables, images, layers=("conv5", "fc7"))

    Args:
      workdir: of a run; or the name of imported weights, such as "torchvision".
      checkpoint: `best` by validation error, `latest`, or a step.

    Raises:
      InputError: if there is no such checkpoint.
    """
    network = open_trained(pretrained.found(local(workdir)), checkpoint)
    data, mean = network.data, network.mean

    def preprocess(images: object) -> Float[np.ndarray, "batch crop crop 3"]:
        """Network input from image files' names, PIL images or uint8 arrays: one image
        or a list of them, with the network's own resizing; see `image_input.stored`.

        Raises:
          InputError: if a file can't be read, or an array has no certain meaning.
        """
        stored = image_input.stored(images, data.size, data.resize)
        return statistics.centre(stored, data.crop).astype(np.float32) - mean

    variables = {"params": network.plain_params}
    return Loaded(network.model, variables, preprocess, data.class_names)
