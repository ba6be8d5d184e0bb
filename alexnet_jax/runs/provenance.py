"""With what a run was started: time, command, commit, versions, devices."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import jax


PACKAGES = (
    "alexnet_jax",
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "ml_collections",
)


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
    }


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
