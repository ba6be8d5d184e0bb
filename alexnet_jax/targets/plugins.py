"""What compiles for devices that are not there: JAX's plugins, by platform."""

import importlib.metadata
import os
import shutil

import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from alexnet_jax.distributed.mesh import DATA, TOWER
from alexnet_jax.runtime.errors import InputError, first_line
from alexnet_jax.targets.cards import Card
from alexnet_jax.targets.chips import Chip
from alexnet_jax.targets.target import Target


# JAX's plugins for CUDA, and the package of each that has its assembler.
CUDA_TOOLS = {
    "jax-cuda12-plugin": "nvidia-cuda-nvcc-cu12",
    "jax-cuda13-plugin": "nvidia-cuda-nvcc",
}
TPU_PLUGIN = "libtpu"
# libtpu would ask the cloud which machine this is, and lock it for one process, as if
# it were to open a TPU.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def check_plugin(target: Target) -> None:
    """Raise an InputError if what compiles for a target is not installed."""
    if isinstance(target, Chip):
        _check_libtpu()
    else:
        _check_cuda()


def _check_cuda() -> None:
    jaxlib = _version("jaxlib")
    first = next(iter(CUDA_TOOLS))
    plugin = next(filter(_version, CUDA_TOOLS), first)
    version, tools = _version(plugin), CUDA_TOOLS[plugin]
    assembler = _version(tools) is not None or shutil.which("ptxas") is not None
    if version == jaxlib and assembler:
        return
    if version is None:
        what = f"{plugin} is not installed"
    elif version != jaxlib:
        what = f"{plugin} is {version}, and jaxlib {jaxlib}"
    else:
        what = "there is no ptxas"
    raise InputError(
        f"compiling for CUDA needs JAX's plugin of jaxlib's version, and {what}; in an "
        f'environment of its own: `pip install "{plugin}=={jaxlib}" {tools}`'
    )


def _check_libtpu() -> None:
    if _version(TPU_PLUGIN) is None:
        raise InputError(
            f"compiling for a TPU needs {TPU_PLUGIN}, and it is not installed; in an "
            f'environment of its own: `pip install "jax[tpu]=={_version("jax")}"`'
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def open_target(target: Chip | Card, data: int, tower: int) -> Mesh:
    """A mesh of devices that are not there.

    Raises:
      InputError: if the plugin is missing, or makes no such mesh.
    """
    check_plugin(target)
    count = data * tower
    try:
        if isinstance(target, Chip):
            for name, value in TPU_ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            described = topologies.get_topology_desc(
                f"{target.generation}:{data}x{tower}",
                target.platform,
                chip_config_name="default",
                chips_per_host_bounds=[data, tower, 1],
                num_slices=1,
                wrap=[False] * 3,
            )
        else:
            topology = f"1x1x{count}"
            described = topologies.get_topology_desc(
                topology,
                target.platform,
                target_config=target.described(),
                topology=topology,
            )
    except Exception as error:
        # The plugins raise what they like.
        raise InputError(
            f"JAX can't describe {data} x {tower} {target.name} "
            f"({first_line(error)[:200]})"
        ) from error
    devices = np.array(described.devices[:count]).reshape(data, tower)
    return Mesh(devices, (DATA, TOWER), axis_types=(AxisType.Explicit,) * 2)
