"""The ("data", "tower") mesh, and the sharding of arrays over it."""

import collections
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree, Shaped

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError, check_number, first_line
from alexnet_jax.runtime.process_pool import check_startable, cores


Function = TypeVar("Function", bound=Callable[..., object])

DATA, TOWER = "data", "tower"

PLATFORMS, CPU_DEVICES = "jax_platforms", "jax_num_cpu_devices"
# What devices of these platforms say that they are.
GPUS = {"cuda": "gpu", "rocm": "gpu"}
MORE_CPUS = (
    "; a CPU shows itself as {0} with JAX_NUM_CPU_DEVICES={0}, or "
    "mesh.virtual_cpu_devices={0} in a run's config"
)

OTHER_PLATFORM = "JAX_PLATFORMS=cpu computes without it"
# What JAX offers for debugging and does not fit.
NOT_WITH = {
    "jax_check_tracer_leaks": "it makes compiling take hours",
    "jax_debug_infs": "the best error of a run begins as an infinity; a run stops by "
    "itself where a loss is not finite, and JAX_DEBUG_NANS works",
    "jax_debug_key_reuse": "JAX takes keys that are derived by place for reused ones",
}

# Where a batch and its results lie. Parameters declare it where they are made.
EXAMPLES = P(DATA)
EVERYWHERE = P()


def open_mesh(
    *,
    towers: int,
    data: int | str = "auto",
    tower: int | str = "auto",
    platform: str | None = None,
    virtual_cpu_devices: int | None = None,
) -> Mesh:
    """Choose the platform and lay its devices out as ("data", "tower").

    To be called before anything else asks for a device.

    Args:
      towers: how many towers the network has.
      data: devices along which a batch is split; "auto" takes as many as there are for
        whole groups of towers, and standard error says so if some are left.
      tower: devices along which the towers are split; "auto" takes one for each tower
        where that many devices are there, and those of several processes divide evenly
        among the towers, else one for all. The numbers are the same.
      platform: `cpu`, `gpu` or `tpu`; None leaves the choice to JAX.
      virtual_cpu_devices: how many devices a CPU shows itself as; the environment's
        JAX_NUM_CPU_DEVICES comes first. Where JAX has opened its devices already, those
        are taken, and standard error says so.

    Raises:
      InputError: if the axis doesn't divide the towers, or there are too few devices.
    """
    _choose_platform(platform, virtual_cpu_devices)
    devices = open_devices(
        OTHER_PLATFORM if platform is None else "leave mesh.platform out"
    )
    _check_platform(platform, devices[0].platform)
    check_number("model.towers", towers, least=1)
    if tower == "auto":
        beside = 1 if data == "auto" else _count(data, "data")
        spread = beside * towers <= len(devices) and _fit(towers, devices)
        along_tower = towers if spread else 1
    else:
        along_tower = _count(tower, "tower")
    if towers % along_tower:
        divisors = [str(n) for n in range(1, towers + 1) if towers % n == 0]
        raise InputError(
            f"mesh.tower={tower} does not divide the network's {towers} towers; "
            f"use {' or '.join(divisors)}"
        )
    if data == "auto":
        along_data = max(1, len(devices) // along_tower)
    else:
        along_data = _count(data, "data")
    needed = along_data * along_tower
    if needed > len(devices):
        kind = devices[0].platform
        advice = MORE_CPUS.format(needed) if kind == "cpu" else ""
        raise InputError(
            f"a mesh of data={along_data} x tower={along_tower} needs {needed} "
            f"devices, but there are {len(devices)} of kind {kind}{advice}"
        )
    if needed < len(devices) and data == "auto":
        progress.say(
            f"{needed} of the {len(devices)} devices are used, as groups of "
            f"{along_tower}; --config.mesh.tower=1 takes all"
        )
    return _mesh(along_data, along_tower)


def _fit(towers: int, devices: Sequence[Any]) -> bool:
    """Whether towers with a device each take all devices of several processes, and fill
    processes or are filled by them; one process may leave devices out."""
    counts = collections.Counter(device.process_index for device in devices).values()
    even = all(count % towers == 0 or towers % count == 0 for count in counts)
    return len(counts) == 1 or (even and len(devices) % towers == 0)


def _count(value: int | str, axis: str) -> int:
    # An override of "auto" on the command line comes as text.
    if not str(value).isdecimal() or int(value) < 1:
        raise InputError(f"mesh.{axis}={value!r} must be auto or a positive number")
    return int(value)


def one_device() -> Mesh:
    """The mesh of one device, the first there is.

    Raises:
      InputError: if JAX can't open its platform.
    """
    return _mesh(1, 1)


def open_devices(advice: str = OTHER_PLATFORM) -> list[Any]:
    """The devices of the platform that JAX is set to, or that it chooses.

    Args:
      advice: what to do where they can't be opened.

    Raises:
      InputError: if it can't be opened: there is no such device, or its driver fails;
        if the system does not allow its threads; or if JAX is set to a way of debugging
        that does not work here.
    """
    for name, reason in NOT_WITH.items():
        if getattr(jax.config, name, False):
            raise InputError(f"{name.upper()} is on, and {reason}; unset it")
    # Where a thread can't start XLA ends the process. 12 were counted on 2 cores.
    check_startable(12 + 2 * cores(), "JAX")
    try:
        return jax.devices()
    except Exception as error:
        # A RuntimeError where there is no such platform; a broken driver or plugin
        # raises what it likes.
        chosen = getattr(jax.config, PLATFORMS)
        # JAX says nothing of a platform that it knows and is installed without.
        reason = first_line(error)[:300] if str(error) else "it is not installed"
        raise InputError(
            f"JAX can't open {f'the platform {chosen}' if chosen else 'its devices'} "
            f"({reason}); {advice}, and "
            "`python -c 'import jax; print(jax.devices())'` shows what there is"
        ) from error


def _mesh(data: int, tower: int) -> Mesh:
    explicit = (AxisType.Explicit, AxisType.Explicit)
    devices = open_devices()
    if jax.process_count() > 1:
        return Mesh(by_process(devices, data, tower), (DATA, TOWER), explicit)
    return jax.make_mesh(
        (data, tower),
        (DATA, TOWER),
        axis_types=explicit,
        devices=devices[: data * tower],
    )


def by_process(
    devices: Sequence[Any], data: int, tower: int
) -> Shaped[np.ndarray, "data tower"]:
    """Devices laid out so that those of a process have neighbouring places along the
    data axis, as its slice of each batch has; by a TPU's network they would not."""
    ordered = sorted(devices, key=lambda device: device.process_index)
    laid_out = np.empty(data * tower, object)
    laid_out[:] = ordered[: data * tower]
    return laid_out.reshape(data, tower)


def _choose_platform(platform: str | None, virtual_cpu_devices: int | None) -> None:
    # A variable that is set for one command comes before a run's config.
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        virtual_cpu_devices = None
    settings = {PLATFORMS: platform, CPU_DEVICES: virtual_cpu_devices}
    for name, value in settings.items():
        if value is None or getattr(jax.config, name) == value:
            continue
        try:
            jax.config.update(name, value)
        except RuntimeError:
            # The number of devices; the platform is taken without a word.
            _take_open_devices(int(value))
    # XLA computes in a pool of one thread a core, and at least one a device. A device
    # that waits for the others in an exchange keeps its thread; on one core two devices
    # were seen to wait for ever, each for a thread of the other.
    devices: int = getattr(jax.config, CPU_DEVICES)
    if devices > cores():
        os.environ.setdefault("PJRT_NPROC", str(2 * devices))


def _check_platform(asked: str | None, opened: str) -> None:
    """Raise an InputError if JAX had opened the devices of another platform before."""
    names = [] if asked is None else asked.split(",")
    if names and opened not in [GPUS.get(name, name) for name in names]:
        raise InputError(
            f"mesh.platform={asked} comes too late: JAX has already opened devices of "
            f"the platform {opened}, as --distributed does at once; set "
            f"JAX_PLATFORMS={asked} before Python starts"
        )


def _take_open_devices(wanted: int) -> None:
    """Say that a number of virtual devices has no effect, where that matters."""
    there = jax.local_devices()
    if there[0].platform == "cpu" and len(there) != wanted:
        progress.say(
            f"warning: mesh.virtual_cpu_devices={wanted} has no effect, since JAX has "
            f"opened its devices already; this run takes the {len(there)} there; for "
            f"{wanted}, set JAX_NUM_CPU_DEVICES={wanted} before Python starts"
        )


def data_share(mesh: Mesh) -> tuple[int, int]:
    """Which part of every batch this process reads, and into how many it is cut.

    Processes that hold the towers of the same examples read the same part.

    Raises:
      InputError: in every process, if the devices of one lie in no even part of the
        data axis.
    """
    shares = [_share(mesh, process) for process in range(jax.process_count())]
    return shares[jax.process_index()]


def _share(mesh: Mesh, process: int) -> tuple[int, int]:
    """`data_share` of a process."""
    rows = [
        row
        for row, devices in enumerate(mesh.devices)
        if any(device.process_index == process for device in devices)
    ]
    count = len(mesh.devices)
    if not rows or count % len(rows) or rows[0] % len(rows):
        raise InputError(
            f"process {process} has {len(rows)} of {count} places along the data axis, "
            "which can't be cut evenly among processes; use all devices "
            "(--config.mesh.data=auto) and as many in every process, or hold all "
            "towers on each (--config.mesh.tower=1)"
        )
    return rows[0] // len(rows), count // len(rows)


def own_mesh(mesh: Mesh) -> Mesh:
    """The part of a mesh whose devices are this process's."""
    if jax.process_count() == 1:
        return mesh
    devices = mesh.local_mesh.devices
    return Mesh(devices, mesh.axis_names, axis_types=mesh.axis_types)


def check_batch(batch_size: int, parts: int, what: str) -> None:
    """Raise an InputError if a batch can't be split evenly."""
    check_number(what, batch_size, least=1)
    if batch_size % parts == 0:
        return
    below, above = batch_size // parts * parts, (batch_size // parts + 1) * parts
    nearest = f"{below} or {above}" if below > 0 else str(above)
    raise InputError(
        f"{what}={batch_size} does not divide over the data axis of {parts}; "
        f"use {nearest}"
    )


def sharded(
    function: Function, mesh: Mesh, *, in_specs: PyTree, out_specs: PyTree
) -> Function:
    """Run `function` on every device's own shards.

    Replication is checked by type (`check_vma`), so the derivative of a replicated
    parameter is the sum over the devices that hold it: take gradients outside.
    """
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=True
    )
