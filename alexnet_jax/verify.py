"""Checks a prepared data set, or how this machine's device computes.

`data/prepared/verification.py` and `runs/device_check.py` do the work.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.data.prepared.verification import verify
from alexnet_jax.runtime import cli, progress
from alexnet_jax.runtime.cli import Parser
from alexnet_jax.runtime.errors import InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(
        "verify",
        description="Check a prepared data set (--path): checksums, records, images.\n"
        "Or check the device (--device): each layer's update of one step, in the\n"
        "config's type, against float32 at highest precision. Every fault is named;\n"
        "the exit status is 1 where there is any.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--path", type=Path, metavar="DIR", help="the data set's folder")
    what.add_argument(
        "--device", action="store_true", help="the first device that JAX opens"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="with --path: processes (default: one for each core)",
    )
    parser.add_argument(
        "--config",
        metavar="NAME[:VARIANT]",
        help="with --device: whose network and type (default: imagenet); with\n"
        "--config.SECTION.KEY=VALUE as in training",
    )
    given, changes = parser.parse_known_args(arguments)
    if changes and not given.device:
        parser.error(f"unrecognized arguments: {' '.join(changes)}")
    if given.path is not None and given.config is not None:
        raise InputError("--config goes with --device, and not with --path")
    if any(text.startswith("--config.mesh.") for text in changes):
        raise InputError(
            "--device checks the first device that JAX opens, and --config.mesh does "
            "nothing here; JAX_PLATFORMS=cpu, gpu or tpu chooses the kind of device"
        )
    if given.device and given.workers is not None:
        raise InputError("--workers goes with --path, and not with --device")
    faults = _device(given, changes) if given.device else _data(given)
    if faults:
        raise SystemExit(1)


def _data(given: argparse.Namespace) -> int:
    """Check a data set and print its faults; returns how many there are."""
    faults = verify(given.path, workers=given.workers)
    for fault in faults:
        progress.say(fault)
    progress.print_result({"path": str(given.path), "faults": len(faults)})
    return len(faults)


def _device(given: argparse.Namespace, changes: Sequence[str]) -> int:
    """Check the device and print a line a layer; returns how many layers are off."""
    # Here, since a data set is checked without JAX.
    from alexnet_jax.runs import overrides, provenance
    from alexnet_jax.runs.device_check import check_device

    config = overrides.changed_config(given.config or "imagenet", changes)
    checks = check_device(config)
    versions = provenance.device_versions()
    progress.say(
        ", ".join(f"{key} {value or 'unknown'}" for key, value in versions.items())
    )
    for layer, check in checks.items():
        verdict = ": off" if check.off else ""
        progress.say(
            f"{layer:<6} error {check.error:<8.2g} (usual up to {check.usual:.2g}), "
            f"scale {check.scale:.3f}{verdict}"
        )
    off = [layer for layer, check in checks.items() if check.off]
    if off:
        progress.say(
            f"{', '.join(off)}: this device computes more than roundings away from "
            "float32; train with another version of the driver, cuDNN or jaxlib, and "
            "report these lines to https://github.com/jax-ml/jax/issues"
        )
    layers = {
        name: {
            key: value if math.isfinite(value) else None
            for key, value in dataclasses.asdict(check).items()
        }
        for name, check in checks.items()
    }
    dtype = config.model.dtype
    progress.print_result({**versions, "dtype": dtype, "layers": layers, "off": off})
    return len(off)


if __name__ == "__main__":
    cli.run_command(main)
