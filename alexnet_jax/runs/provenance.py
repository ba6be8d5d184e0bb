"""With what a run was started: time, command, commit, versions, devices, and settings
that change the last digits of its numbers."""

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import jax


PACKAGES = (
    "alexnet_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "ml_collections",
    "numpy",
    "pillow",
    "simplejpeg",
)
# Settings of JAX and of XLA that change how sums are rounded. What the program sets
# itself is not among them: types, the generator of random numbers.
SETTINGS = (
    "jax_default_matmul_precision",
    "jax_disable_jit",
    "jax_allow_f16_reductions",
    "jax_softmax_custom_jvp",
    "jax_use_direct_linearize",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
    "jax_use_shardy_partitioner",
)
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


def environment() -> dict[str, object]:
    """What `run.json` says of a start. Asks for the devices."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: v for name in PACKAGES if (v := _version(name))},
        "host": platform.node(),
        "machine": platform.platform(),
        "devices": [f"{device.platform}: {device}" for device in jax.devices()],
        "processes": jax.process_count(),
        "numerics": _numerics(),
    }


def device_versions() -> dict[str, str | None]:
    """The first device, and what computes on it; None where that can't be known."""
    device = jax.devices()[0]
    gpu = device.platform == "gpu"
    cudnn = [_version(f"nvidia-cudnn-cu{major}") for major in (12, 13)] if gpu else []
    return {
        "device": device.device_kind if device.platform != "cpu" else _processor(),
        "platform": device.platform,
        "runtime": str(getattr(device.client, "platform_version", "")) or None,
        "driver": _nvidia_driver() if gpu else None,
        "cudnn": next((version for version in cudnn if version), None),
        "jaxlib": _version("jaxlib"),
    }


def _nvidia_driver() -> str | None:
    """The version of NVIDIA's driver, from its first line."""
    try:
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    found = re.search(r"\d+\.\d+(\.\d+)?", first)
    return found[0] if found else None


def _numerics() -> dict[str, str]:
    """What decides the last digits of a run's numbers beside config and versions."""
    settings = {name: str(getattr(jax.config, name, "")) for name in SETTINGS}
    variables = {name: os.environ.get(name, "") for name in VARIABLES}
    kinds = sorted({f"{d.platform} {d.device_kind}" for d in jax.devices()})
    # Of several kinds of processor XLA uses what each one has.
    processor = _processor() if jax.devices()[0].platform == "cpu" else ""
    return {
        **settings,
        **variables,
        "device": ", ".join(kinds),
        "processor": processor,
        "driver": _driver(),
    }


def _driver() -> str:
    """The driver of the GPUs, as the system names it, and the platform's version."""
    client = jax.devices()[0].client
    if client.platform == "cpu":
        return ""
    lines = " ".join(client.platform_version.split())
    try:
        module = NVIDIA_DRIVER.read_text().splitlines()[0]
    except (OSError, IndexError):
        return lines
    return f"{module}; {lines}"


def _processor() -> str:
    """The name of this machine's processor, where the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if "model name" in line)
    return next(named, platform.processor())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout this runs from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(git, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
