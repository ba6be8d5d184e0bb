"""A trained network from its work directory."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from alexnet_jax.checkpoint.checkpointer import Checkpoints
from alexnet_jax.data import images as pictures
from alexnet_jax.data import statistics
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs import workdir as workdirs
from alexnet_jax.runs.config import call, plain
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError
from alexnet_jax.training import preprocess
from alexnet_jax.training import step as steps


Layers = Sequence[str]


class Loaded(NamedTuple):
    """A trained network. Unpacks into its four parts."""

    model: AlexNet
    variables: dict[str, Any]
    preprocess: Callable[..., Float[np.ndarray, "batch crop crop 3"]]
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One member of an ensemble: a run and the checkpoint of it that is measured."""

    workdir: Path
    config: Mapping[str, Any]
    data: workdirs.Data
    step: int

    @property
    def model(self) -> AlexNet:
        """Its network."""
        classes = len(self.data.class_names)
        return call(self.config, "model", num_classes=classes)

    def abstract_params(self, mesh: jax.sharding.Mesh) -> Any:
        """Shapes, types and places of its parameters."""
        size = self.data.crop
        variables = jax.eval_shape(
            self.model.init, jax.random.key(0), jnp.zeros((1, size, size, 3))
        )
        return meshes.abstract(variables["params"], mesh)

    def params(self, mesh: jax.sharding.Mesh) -> Any:
        """Its parameters, restored onto a mesh."""
        abstract = self.abstract_params(mesh)
        with Checkpoints(self.workdir / workdirs.CHECKPOINTS) as checkpoints:
            return checkpoints.restore(self.step, {"params": abstract})["params"]

    @functools.cached_property
    def plain_params(self) -> Any:
        """Its parameters on one device, with no mesh or sharding in sight."""
        params = jax.device_get(self.params(meshes.one_device()))
        return jax.tree.map(jnp.asarray, params)

    def evaluator(
        self, mesh: jax.sharding.Mesh, views: int
    ) -> Callable[[steps.Batch], tuple[dict[str, jax.Array], jax.Array]]:
        """Its evaluation step with its parameters and mean picture; it takes batches.

        The mirrored views are left out if training was without mirror images.
        """
        mean = statistics.mean_crop(self.data.statistics, self.data.crop)
        mean = jax.device_put(mean, meshes.replicated(mesh))
        params = self.params(mesh)
        evaluate = steps.make_eval_step(
            self.model,
            mesh,
            crop=self.data.crop,
            views=views,
            mirrors=self.config["data"].get("flip", True),
        )
        return lambda batch: evaluate(params, batch, mean)

    def activations(
        self, params: Any, images: UInt8[Array, "batch size size 3"], layers: Layers
    ) -> tuple[Array, dict[str, Array]]:
        """Logits and layers of stored pictures' centres, in float32; to be jitted."""
        crop = self.data.crop
        mean = statistics.mean_crop(self.data.statistics, crop)
        (centre,) = jnp.moveaxis(preprocess.cut_views(images, crop=crop, views=1), 1, 0)
        centre = centre.astype(jnp.float32) - mean[None]
        outputs: Any = self.model.apply({"params": params}, centre, layers=layers)
        logits, kept = outputs
        return logits, {name: x.astype(jnp.float32) for name, x in kept.items()}


def init_from(
    source: Path,
    params: Any,
    model: AlexNet,
    class_names: Sequence[str],
    mesh: jax.sharding.Mesh,
) -> Any:
    """A run's parameters to begin another run with.

    What the old network computes otherwise, with parameters of the same shapes, is
    told.

    Args:
      source: work directory of the run, of which the best checkpoint is taken.
      params: freshly drawn ones of the new run.
      model: its network.
      class_names: of the new run. Where the old one's are others, the last layer stays
        freshly drawn.
      mesh: where they are laid.

    Raises:
      InputError: if it is a run of another network; the message names the layers.
    """
    member = open_member(source, "best")
    *_, head = model.layers
    same_classes = tuple(class_names) == member.data.class_names
    theirs = member.abstract_params(mesh)
    names = dict.fromkeys([*params, *theirs])
    differing = [
        name
        for name in names
        if (name != head or same_classes)
        and _shapes(params.get(name)) != _shapes(theirs.get(name))
    ]
    if differing:
        told = "; ".join(
            f"{name} {_shapes(theirs.get(name))} -> {_shapes(params.get(name))}"
            for name in differing
        )
        raise InputError(
            f"train.init_from={source} is a run of another network ({told}); give one "
            "of the same layers"
        )
    if otherwise := _otherwise(member.model, model):
        progress.say(
            f"warning: {source} computes otherwise with such parameters: "
            f"{', '.join(otherwise)}"
        )
    taken = member.params(mesh)
    if not same_classes:
        taken[head] = params[head]
    return {name: taken[name] for name in params}


def _otherwise(theirs: AlexNet, ours: AlexNet) -> list[str]:
    """What two networks differ in beside the shapes and beginnings of parameters."""
    of_parameters = ("num_classes", "kernel_std", "bias")
    of_the_run = ("dtype", "tower_axis", "parent", "name")
    told = []
    for field in dataclasses.fields(ours):
        there, here = getattr(theirs, field.name), getattr(ours, field.name)
        if field.name not in (*of_parameters, *of_the_run) and there != here:
            told.append(f"model.{field.name}={there!r} there and {here!r} here")
    return told


def _shapes(layer: Any) -> str:
    if layer is None:
        return "missing"
    return "x".join(str(side) for side in layer["kernel"].shape)


def open_member(workdir: Path, checkpoint: str | int) -> Member:
    """A run and its checkpoint asked for: `best`, `latest` or a step.

    Raises:
      InputError: if there is no run or no such checkpoint.
    """
    config = plain(workdirs.read_config(workdir))
    if isinstance(checkpoint, str) and checkpoint not in ("best", "latest"):
        try:
            checkpoint = int(checkpoint)
        except ValueError:
            raise InputError(
                f"--checkpoint={checkpoint} must be best, latest or a step"
            ) from None
    if not (workdir / workdirs.CHECKPOINTS).is_dir():
        raise InputError(
            f"no checkpoint in {workdir}; train with "
            f"`python -m alexnet_jax.main --config=NAME --workdir={workdir}`"
        )
    with Checkpoints(workdir / workdirs.CHECKPOINTS) as checkpoints:
        step = checkpoints.find(checkpoint)
    return Member(workdir, config, workdirs.read_data(workdir), step)


def load(workdir: Path, checkpoint: str | int = "best") -> Loaded:
    """See `alexnet_jax.load`."""
    member = open_member(workdir, checkpoint)
    data = member.data
    mean = statistics.mean_crop(data.statistics, data.crop)

    def preprocess(
        images: Sequence[Any],
    ) -> Float[np.ndarray, "batch crop crop 3"]:
        """Pictures as the network takes them.

        Args:
          images: file names, PIL pictures, or uint8 arrays of height x width x 3.
        """
        stored = np.stack([_stored(image, data.size) for image in images])
        return statistics.centre(stored, data.crop).astype(np.float32) - mean

    variables = {"params": member.plain_params}
    return Loaded(member.model, variables, preprocess, data.class_names)


def _stored(image: Any, size: int) -> np.ndarray:
    if isinstance(image, str | Path):
        path = Path(image)
        if not path.is_file():
            raise InputError(f"{path} is not a file")
        return pictures.decode(path.read_bytes(), str(path), size=size).picture
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image))
    return pictures.prepared(image, size)
