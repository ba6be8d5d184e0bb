"""Whether a network runs with fused kernels: `model.implementation`.

It is decided when a step is traced, for the device that it is traced for, and changes
how values are computed, never what they are.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array

from alexnet_jax.nn.fused.launch import Way
from alexnet_jax.nn.fused.powers import BETA, WINDOW, Norm
from alexnet_jax.nn.fused.stages import KINDS, stage_of_towers
from alexnet_jax.nn.layers import Conv, Local, Row


# `interpret` is for tests: the kernels' arithmetic in NumPy, on any device.
IMPLEMENTATIONS = ("auto", "xla", "fused", "interpret")
WAYS = {"fused": Way.DEVICE, "interpret": Way.HOST}
# What `auto` means: XLA, until the kernels' updates are no farther from float32 than
# XLA's on a GPU, layer by layer (`experiments/accelerator/`, A1); then "fused".
AUTO = "xla"
# Of compute capability: from here on a GPU computes in bfloat16, and has the maximum of
# two numbers that is NaN where one is.
CAPABILITY = 8.0
POOL_WINDOW, POOL_STRIDE = 3, 2
# Channels that a lane of a kernel has.
CHANNELS = 8
LARGEST_FLOAT16 = 65504.0


@runtime_checkable
class Network(Protocol):
    """The fields of `AlexNet` that decide."""

    implementation: str
    layers: Mapping[str, Any]
    towers: int
    activation: str
    pool_window: int
    pool_stride: int
    pool_partial: bool
    norm_across_towers: bool
    norm_size: int
    norm_k: float
    norm_alpha: float
    norm_beta: float
    dtype: str


class Device(NamedTuple):
    """A device that a step is traced for; `capability` is a GPU's, if it is known."""

    platform: str
    kind: str
    capability: float | None


class Decision(NamedTuple):
    """What runs: `xla`, `fused` or `interpret`; and why not what was asked for."""

    runs: str
    reason: str | None = None


def decide(network: Network, device: Device) -> Decision:
    """What runs a network on a device."""
    automatic, asked = network.implementation == "auto", _asked(network)
    if asked == "xla":
        return Decision("xla")
    reason = _unfit(device) if asked == "fused" else None
    if reason is not None:
        return Decision("xla", None if automatic else reason)
    reason = _unsupported(network)
    return Decision(asked) if reason is None else Decision("xla", reason)


def explanation(network: Network, device: Device) -> str | None:
    """A line where a network can't be computed on a device as it asks to be."""
    runs, reason = decide(network, device)
    if reason is None:
        return None
    asked = network.implementation
    return f"model.implementation={asked}: {reason}; {runs} runs in their place"


def describe(device: Any) -> Device:
    """A device of JAX, as one of a mesh."""
    capability = getattr(device, "compute_capability", None)
    try:
        number = None if capability is None else float(capability)
    except ValueError:
        # The name of AMD's processor, as gfx942.
        return Device("rocm", device.device_kind, None)
    return Device(device.platform, device.device_kind, number)


class Kernels(NamedTuple):
    """The kernels of one network.

    Attributes:
      norm: the constants of its LRN.
      way: where they run.
    """

    norm: Norm
    way: Way

    def steps(self, row: Row) -> tuple[str, ...]:
        """The first of a row's steps that one stage takes: all but dropout; none of a
        fully connected layer's."""
        return _taken(row.then) if isinstance(row, Conv) else ()

    def run(
        self,
        steps: tuple[str, ...],
        values: Sequence[Array],
        biases: Sequence[Array],
        towers: int,
    ) -> list[Array]:
        """Add the biases and take these steps, in each of so many towers; `values` and
        `biases` are one a tower, or one of all towers side by side."""
        together = towers // len(values)
        take = stage_of_towers(steps, self.norm, self.way, together)
        pairs = zip(values, biases, strict=True)
        return [out for y, bias in pairs for out in take(y, bias)]


def kernels(network: Network) -> Kernels | None:
    """The kernels that run a network where it is traced; None for XLA without them."""
    if _asked(network) == "xla":
        return None  # And no device is asked for.
    way = WAYS.get(decide(network, _current_device()).runs)
    return Kernels(Norm(network.norm_k, network.norm_alpha), way) if way else None


def _asked(network: Network) -> str:
    return AUTO if network.implementation == "auto" else network.implementation


def _current_device() -> Device:
    """The device of the mesh around the code that is traced, else JAX's first."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return describe(jax.devices()[0])
    same = (d for d in jax.devices() if d.device_kind == device.device_kind)
    # A step may be compiled for a device that is not here.
    return describe(next(same, device))


def _unfit(device: Device) -> str | None:
    if device.platform != "gpu":
        return (
            f"this is a {device.platform.upper()}, and the kernels are for NVIDIA GPUs"
        )
    if device.capability is not None and device.capability < CAPABILITY:
        return (
            f"{device.kind} has compute capability {device.capability}, and the "
            f"kernels need {CAPABILITY}"
        )
    if importlib.util.find_spec("jax.experimental.pallas.triton") is None:
        return f"jax {jax.__version__} has no Pallas lowering to Triton any more"
    return None


def _unsupported(network: Network) -> str | None:
    """The first setting of a network that the kernels don't take, in words."""
    taken = {"dtype": "bfloat16", "activation": "relu"}
    convolutions = {
        k: row for k, row in network.layers.items() if isinstance(row, Conv)
    }
    steps = [step for row in convolutions.values() for step in row.then]
    if "pool" in steps:
        pools = {"window": POOL_WINDOW, "stride": POOL_STRIDE, "partial": False}
        taken |= {f"pool_{name}": value for name, value in pools.items()}
    if "norm" in steps:
        taken |= {"norm_across_towers": False, "norm_size": WINDOW, "norm_beta": BETA}
    for name, value in taken.items():
        if (found := getattr(network, name)) != value:
            return f"the kernels take model.{name}={value}, not {found}"
    for name, row in convolutions.items():
        if isinstance(row, Local):
            return f"the kernels don't take model.layers.{name}, locally connected"
        if not _taken(row.then):
            return f"the kernels don't take model.layers.{name}.then={row.then}"
        if (width := row.channels // network.towers) % CHANNELS:
            return (
                f"model.layers.{name} has {width} channels a tower, and the kernels "
                f"take multiples of {CHANNELS}"
            )
    # The kernels divide by alpha, and store what the norm gives in float16.
    norm = Norm(network.norm_k, network.norm_alpha)
    if "norm" in steps and not (
        norm.k < 1e12 * norm.alpha and norm.largest < LARGEST_FLOAT16
    ):
        return f"model.norm_alpha={network.norm_alpha} is too small for the kernels"
    return None


def _taken(then: tuple[str, ...]) -> tuple[str, ...]:
    steps = then[:-1] if then[-1:] == ("dropout",) else then
    return steps if steps in KINDS else ()
