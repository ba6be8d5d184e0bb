"""Checks how this machine's device computes one step of a config."""

import jax
from jax.sharding import Mesh

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.nn.fused.support import describe, explanation
from alexnet_jax.runs.config import Config
from alexnet_jax.runs.network import plan_network
from alexnet_jax.runtime import progress
from alexnet_jax.training import device_check
from alexnet_jax.training.device_check import ROUNDINGS, LayerCheck


# Enough for a bias's gradient to be a sum of many, and half a minute on two cores.
IMAGES = 32
# Of JAX's settings; its `read` refuses what a context can set.
PRECISION = "jax_default_matmul_precision"


def check_device(config: Config) -> dict[str, LayerCheck]:
    """How near each layer's first update is, of a config on the first device.

    The update in the config's type is compared with that in float32 at highest
    precision: on the CPU beside the device, or on the device itself where JAX is set to
    open no CPU. A line says so where the config asks for kernels that don't run there.

    Raises:
      InputError: if something in the config is wrong, or there is no device.
    """
    network = plan_network(config)
    mesh = meshes.one_device()
    batch = device_check.random_batch(IMAGES, network.crop, network.model.num_classes)
    model = network.model
    said = explanation(model, describe(mesh.devices.flat[0]))
    if said is not None:
        progress.say(said)
    updates = device_check.one_update(model, mesh, batch)
    with jax.default_matmul_precision("highest"):
        exact = device_check.one_update(
            model.clone(dtype="float32"), _reference(mesh), batch
        )
    rounding = ROUNDINGS[_products(model.dtype, mesh.devices.flat[0].platform)]
    return device_check.compare(updates, exact, rounding)


def _products(dtype: str, platform: str) -> str:
    """The type whose roundings a product makes."""
    if dtype != "float32" or platform == "cpu":
        return dtype
    precision = getattr(jax.config, PRECISION)
    if precision in ("highest", "float32"):
        return dtype
    return "bfloat16" if platform == "tpu" else "tensorfloat32"


def _reference(mesh: Mesh) -> Mesh:
    try:
        cpu = jax.local_devices(backend="cpu")[:1]
    except RuntimeError:
        return mesh
    return jax.make_mesh(
        (1, 1), mesh.axis_names, axis_types=mesh.axis_types, devices=cpu
    )
