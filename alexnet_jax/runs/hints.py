"""What a run says of itself at its start, and what it advises before it trains."""

import re
import shlex
from pathlib import Path

import jax

from alexnet_jax.data.dataset import Source
from alexnet_jax.data.encoded import EncodedSource
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.prepared.record import PreparedSource
from alexnet_jax.data.selection import ReplacingSource, SelectedSource
from alexnet_jax.data.sources import registry
from alexnet_jax.data.sources.randomized import CorruptedSource
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.fused.support import Decision, decide, describe, explanation
from alexnet_jax.runs.config import Arguments, section
from alexnet_jax.runs.setup import Setup
from alexnet_jax.runtime.progress import counting
from alexnet_jax.training.plan import Plan


# What decides which images are read and how they are stored, with its defaults; and of
# that, what a prepared set has no use for.
OF_SOURCE = {"image_key": None, "label_key": None, "other_classes": "stop"}
OF_PREPARING = {
    "size": registry.SIZE,
    "validation_fraction": registry.VALIDATION_FRACTION,
    **OF_SOURCE,
}
# The first compute capability of NVIDIA with units for bfloat16, and AMD's processors.
BFLOAT16_SINCE = 8.0
BFLOAT16_OF_AMD = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")


def at_start(setup: Setup, workdir: Path) -> list[str]:
    """What a run says before its first step: what it is, and what to change."""
    return [
        opening_line(setup, workdir),
        *([setup.recipe] if setup.recipe else []),
        *implementation(setup),
        *type_hints(setup),
        *warnings(setup.plan, section(setup.config, "schedule")),
        *slow_reading(setup),
    ]


def opening_line(setup: Setup, workdir: Path) -> str:
    """What is trained, on what, how long, and where the run goes, in one line."""
    dataset, plan, mesh = setup.pipeline.dataset, setup.plan, setup.mesh
    held_out = len(dataset.splits.get("validation", ()))
    classes = counting(len(dataset.class_names), "class", "classes")
    parameters = sum(p.size for p in jax.tree.leaves(setup.steps.abstract.params))
    kind = mesh.devices.flat[0].platform.upper()
    devices = counting(mesh.devices.size, f"{kind} device")
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return (
        f"{plan.examples:,} training and {counting(held_out, 'validation image')} of "
        f"{classes}, {counting(parameters, 'parameter')}, batch {plan.batch_size}, "
        f"{counting(plan.steps, 'step')} on {devices} ({axes}), into {workdir}"
    )


def what_runs(setup: Setup) -> Decision:
    """How the network is computed, and why not as the config asks."""
    if not isinstance(setup.model, AlexNet):
        return Decision("xla")
    return decide(setup.model, describe(setup.mesh.devices.flat[0]))


def implementation(setup: Setup) -> list[str]:
    """A line where the network can't be computed as the config asks."""
    if not isinstance(setup.model, AlexNet):
        return []
    said = explanation(setup.model, describe(setup.mesh.devices.flat[0]))
    return [] if said is None else [said]


def type_hints(setup: Setup) -> list[str]:
    """What to say of the type that a run computes in on its devices, if anything."""
    if not isinstance(setup.model, AlexNet):
        return []
    device = setup.mesh.devices.flat[0]
    capability = str(getattr(device, "compute_capability", ""))
    kind = "a CPU" if device.platform == "cpu" else device.device_kind
    said = type_advice(setup.model.dtype, device.platform, kind, capability)
    return [] if said is None else [said]


def warnings(plan: Plan, schedule: Arguments) -> list[str]:
    """What in a plan, and in a section `schedule`, hardly anybody wants, and what to
    set instead."""
    found = []
    for key, lacks in (
        ("warmup_epochs", "the learning rate never reaches its full height"),
        ("swa_epochs", "no mean of the parameters is taken"),
    ):
        epoch = schedule.get(key)
        if epoch and round(epoch * plan.steps_per_epoch) >= plan.steps:
            found.append(
                f"the run ends by schedule.{key}={epoch:g}, so that {lacks}; train for "
                "more epochs, or set it lower"
            )
    if plan.batch_size > plan.examples:
        found.append(
            f"train.batch_size={plan.batch_size} is more than the "
            f"{counting(plan.examples, 'training image')}, so that a batch repeats "
            f"images; set --config.train.batch_size={plan.examples} or less"
        )
    every_step = plan.validate_steps is None and plan.batch_size >= plan.examples
    if every_step and plan.steps > 1:
        found.append(
            "an epoch is one step, so that every step is followed by a validation; set "
            "--config.train.validate_steps=100, or as you like"
        )
    return [f"warning: {text}" for text in found]


def type_advice(dtype: str, platform: str, kind: str, capability: str) -> str | None:
    """What to say of the type that a network computes in on a device, if anything.

    Args:
      dtype: `float32` or `bfloat16`.
      platform: `cpu`, `gpu` or `tpu`.
      kind: the device's name, as JAX has it.
      capability: of a GPU: CUDA's compute capability, such as `9.0`, or AMD's name of
        the processor; empty where it isn't known.
    """
    if platform == "cpu":
        gains = False
        why = "XLA convolves in float32 on a CPU"
    elif platform == "tpu":
        gains, why = True, ""
    elif re.fullmatch(r"\d+(\.\d+)?", capability):
        gains = float(capability) >= BFLOAT16_SINCE
        why = f"its compute capability is {capability}, and units came with 8.0"
    elif capability.startswith(BFLOAT16_OF_AMD):
        gains, why = True, ""
    else:
        return None
    if gains and dtype == "float32":
        return (
            f"hint: {kind} has units for bfloat16: --config.model.dtype=bfloat16 "
            "should be faster (by how much is not measured)"
        )
    if not gains and dtype == "bfloat16":
        return (
            f"hint: bfloat16 gains no speed on {kind}: {why}; "
            "--config.model.dtype=float32 is at least as fast, and more precise"
        )
    return None


def slow_reading(setup: Setup) -> list[str]:
    """What to do first about data that are slow to read at random, as training does."""
    source = _source(setup.pipeline)
    if not isinstance(source, EncodedSource) or not source.recommends_preparing:
        return []
    data = setup.config["data"]
    given = {key: data[key] for key, n in OF_PREPARING.items() if data.get(key, n) != n}
    flags = " ".join(
        shlex.quote(f"--{key}={value}")
        for key, value in {"input": data.get("path"), **given}.items()
    )
    unset = [f"data.{key}" for key in given if key in OF_SOURCE]
    without = f", without {' and '.join(unset)}" if unset else ""
    return [
        f"hint: {data['source']} is slow to read at random; prepare it once, with "
        f"`python -m alexnet_jax.prepare --source={data['source']} {flags} "
        f"--output=DIR`, and train with --config.data.source=prepared "
        f"--config.data.path=DIR{without}"
    ]


def _source(pipeline: Pipeline) -> Source:
    """The source of the training images, without what is laid over it."""
    source = pipeline.dataset.splits["train"]
    while isinstance(source, CorruptedSource | ReplacingSource | SelectedSource):
        source = source.source
    return source


def faster_reading(pipeline: Pipeline) -> str:
    """What to do where the devices wait for these data."""
    source = _source(pipeline)
    if isinstance(source, EncodedSource):
        return "prepare them with `python -m alexnet_jax.prepare`"
    if isinstance(source, PreparedSource) and source.encoding != "raw":
        return "prepare them with --encoding=raw, or use a machine with more cores"
    return "use a machine with more cores, or a faster disk"
