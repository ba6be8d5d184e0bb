"""Everything that `explain` shows of an image, from a run's work directory."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from alexnet_jax.analysis import explanations
from alexnet_jax.analysis.explanations import SAMPLES, Explained
from alexnet_jax.data import statistics
from alexnet_jax.inference import image_input
from alexnet_jax.inference.trained import TrainedNetwork, open_trained
from alexnet_jax.nn.layers import Conv
from alexnet_jax.nn.receptive_fields import Field, receptive_fields
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError, check_number


# By default a square covers a seventh of the crop's side, and moves by a third of it.
PATCHES, STEPS = 7, 3
NEAREST = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """What a network sees in an image, and why it gives it a class.

    Attributes:
      image: the crop that it sees.
      probabilities: what it gives each class.
      label: the class that is explained.
      patch: side of the occluding square, in pixels.
      places: where squares begin along a side.
      occlusion: the class's probability for a square at each place.
      gradient: of the class's logit by the pixels.
      smooth_gradient: SmoothGrad.
      guided_gradient: guided backpropagation; None where the network has no ReLU.
      grad_cam: Grad-CAM at the last convolution.
      activations: each convolution's output behind its non-linearity, by layer: height
        x width x channels; towers side by side in the last axis.
      fields: the receptive fields of these layers.
      towers: how many the network has.
    """

    class_names: tuple[str, ...]
    image: UInt8[np.ndarray, "crop crop 3"]
    probabilities: Float[np.ndarray, " classes"]
    label: int
    patch: int
    places: np.ndarray
    occlusion: Float[np.ndarray, "places places"]
    gradient: Float[np.ndarray, "crop crop 3"]
    smooth_gradient: Float[np.ndarray, "crop crop 3"]
    guided_gradient: Float[np.ndarray, "crop crop 3"] | None
    grad_cam: Float[np.ndarray, "height width"]
    activations: Mapping[str, np.ndarray]
    fields: Mapping[str, Field]
    towers: int

    @property
    def last(self) -> str:
        """The last convolution."""
        return list(self.activations)[-1]

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by name, for a file."""
        found = {
            "image": self.image,
            "probabilities": self.probabilities,
            "label": np.asarray(self.label),
            "class_names": np.asarray(self.class_names),
            "occlusion": self.occlusion,
            "occlusion_places": self.places,
            "occlusion_patch": np.asarray(self.patch),
            "gradient": self.gradient,
            "smooth_gradient": self.smooth_gradient,
            "grad_cam": self.grad_cam,
        }
        if self.guided_gradient is not None:
            found["guided_gradient"] = self.guided_gradient
        found |= {f"activations_{n}": maps for n, maps in self.activations.items()}
        return found


def explain(
    workdir: Path,
    image: Path,
    *,
    chosen: str | None = None,
    checkpoint: str | int = "best",
    patch: int | None = None,
    stride: int | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Explanation:
    """Explain an image file's class by every method.

    Args:
      workdir: of a run.
      image: the file.
      chosen: the class to explain, by name or number; None for the likeliest.
      checkpoint: `best`, `latest` or a step.
      patch: side of the occluding square, in pixels; None for a seventh of the crop.
      stride: how far it moves; None for a third of its side.
      samples: noisy copies for SmoothGrad.
      seed: of their noise.

    Raises:
      InputError: if there is no such run, image or class, or a number is out of range.
    """
    check_number("--samples", samples, least=1, whole=True)
    network = open_trained(workdir, checkpoint)
    if not any(isinstance(row, Conv) for row in network.model.layers.values()):
        raise InputError(f"{workdir} has no convolution, whose maps would be explained")
    names, crop = network.data.class_names, network.data.crop
    label = None if chosen is None else class_number(chosen, names)
    patch = max(1, crop // PATCHES) if patch is None else patch
    check_number("--patch", patch, least=1, whole=True)
    if patch > crop:
        raise InputError(f"--patch={patch} is larger than the crop of {crop} pixels")
    stride = max(1, patch // STEPS) if stride is None else stride
    check_number("--stride", stride, least=1, whole=True)
    stored = image_input.stored(image, network.data.size, network.data.resize)
    return _explained(
        network,
        statistics.centre(stored, crop)[0],
        label,
        patch=patch,
        stride=stride,
        samples=samples,
        seed=seed,
    )


def _explained(
    network: TrainedNetwork,
    image: UInt8[np.ndarray, "crop crop 3"],
    label: int | None,
    *,
    patch: int,
    stride: int,
    samples: int,
    seed: int,
) -> Explanation:
    model, variables = (
        Explained.of(network.model),
        {"params": network.plain_params},
    )
    seen = image.astype(np.float32) - network.mean
    given = explanations.probabilities(model, variables, seen[None])[0]
    label = int(given.argmax()) if label is None else label
    layers = [name for name, row in model.layers.items() if isinstance(row, Conv)]
    about = (variables, seen, label)
    places = explanations.occlusion_places(len(image), patch, stride)
    with progress.counted("occlusions", len(places) ** 2) as advance:
        occluded = explanations.occlusion(
            model, *about, patch=patch, stride=stride, advance=advance
        )
    guided = None
    if model.activation == "relu":
        guided = explanations.gradient(model.clone(guided=True), *about)
    else:
        progress.say(
            f"guided backpropagation is for ReLU, and this network has "
            f"{model.activation}; left out"
        )
    fields = receptive_fields(network.model)
    return Explanation(
        class_names=network.data.class_names,
        image=image,
        probabilities=given,
        label=label,
        patch=patch,
        places=places,
        occlusion=occluded,
        gradient=explanations.gradient(model, *about),
        smooth_gradient=explanations.smooth_gradient(
            model, *about, samples=samples, seed=seed
        ),
        guided_gradient=guided,
        grad_cam=explanations.grad_cam(model, *about, layers[-1]),
        activations=explanations.activations(model, variables, seen, layers),
        fields={name: field for name in layers if (field := fields[name])},
        towers=model.towers,
    )


def class_number(chosen: str, names: Sequence[str]) -> int:
    """The class of a name, or of a number in text.

    Raises:
      InputError: if there is none, or several have the name.
    """
    places = [number for number, name in enumerate(names) if name == chosen]
    if len(places) > 1:
        numbers = " and ".join(map(str, places))
        raise InputError(
            f"--class={chosen} is the name of several classes; give a number: {numbers}"
        )
    if places:
        return places[0]
    if chosen.isdecimal() and int(chosen) < len(names):
        return int(chosen)
    near = difflib.get_close_matches(chosen, names, NEAREST, cutoff=0.4)
    which = f"the nearest: {', '.join(near)}; or" if near else "give a name, or"
    raise InputError(
        f"no class {chosen!r}; {which} a number from 0 to {len(names) - 1}"
    )
