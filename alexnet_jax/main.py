"""Train: flags, config, one call.

    python -m alexnet_jax.main --config=configs/NAME.py[:VARIANT] --workdir=DIR
                               [--config.SECTION.KEY=VALUE ...]
                               [--distributed[=HOST:PORT --processes=N --process=I]]

With --distributed several processes train one network, each started with the same
command. On a cluster that JAX knows (SLURM, cloud TPU, Kubernetes, Open MPI) no more is
needed; elsewhere give the address where process 0 waits, the number of processes, and
the index of this process.

A config is a Python file with a function `get_config`; it is executed as code. The
configs of the package are also found by name: `--config=quickstart`. A single value of
a single layer is `--config.model.layers.conv3.kernel_std=0.05`.
"""

from alexnet_jax.runtime import cli, hugepages


if __name__ == "__main__":
    # Before the imports that take long, since it restarts the process.
    hugepages.use()

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import train
from alexnet_jax.distributed import multihost
from alexnet_jax.reporting import report
from alexnet_jax.runs import config_file
from alexnet_jax.runtime import paths, progress
from alexnet_jax.runtime.errors import Failure, InputError


USAGE = (
    "usage: python -m alexnet_jax.main --config=configs/NAME.py[:VARIANT] "
    "--workdir=DIR [--config.SECTION.KEY=VALUE ...]"
)


def parse(arguments: Sequence[str]) -> tuple[config_file.ConfigDict, Path]:
    """The config with its overrides, and the work directory.

    Raises:
      InputError: on anything wrong in the arguments or in the config they name.
    """
    return _opened(*_parsed(arguments))


def _parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of this command, and the remaining arguments: overrides of the config.

    They are parsed here and not by absl, so that one config can be executed once.
    """
    parser = cli.Parser("main", add_help=False)
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    parser.add_argument("--distributed", nargs="?", const="")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    return parser.parse_known_args(arguments)


def _opened(
    given: argparse.Namespace, overrides: Sequence[str]
) -> tuple[config_file.ConfigDict, Path]:
    for name in ("config", "workdir"):
        if getattr(given, name) is None:
            raise InputError(f"--{name} is missing; {USAGE}")
        if not getattr(given, name):
            raise InputError(f"--{name} is empty; {USAGE}")
    # Before what follows the colon of an address is taken for a variant.
    paths.local(given.config, "--config")
    name, _, variant = given.config.partition(":")
    config = config_file.load_config(name, variant or None)
    config_file.override(config, overrides)
    return config, paths.local(given.workdir, "--workdir")


def start_processes(given: argparse.Namespace) -> bool:
    """Join the other processes, if asked to; returns whether it was asked.

    Raises:
      InputError: if these arguments are wrong, or a process doesn't join.
    """
    if given.distributed is not None:
        address = given.distributed or None
        multihost.start(address, given.processes, given.process)
    elif given.processes is not None or given.process is not None:
        raise InputError("--processes and --process go with --distributed=HOST:PORT")
    return given.distributed is not None


def main() -> None:
    """The command."""
    arguments = sys.argv[1:]
    if {"--help", "-h", "--helpshort", "--helpfull"} & set(arguments):
        print(f"{__doc__}\n{USAGE}")
        return
    given, overrides = _parsed(arguments)
    several = start_processes(given)
    config, workdir = _opened(given, overrides)
    # Asking how many processes there are opens the devices; the run does that itself.
    with multihost.together() if several else contextlib.nullcontext():
        result = train.run(config, workdir)
    if multihost.is_main():
        if not several:
            draw(workdir)
        progress.print_result(result)


def draw(workdir: Path) -> None:
    """Draw the report of a finished run, where the packages for it are installed."""
    if not report.is_possible():
        progress.say(
            "no report: `pip install matplotlib jinja2` draws one of every run"
        )
        return
    try:
        progress.say(f"report: {report.write_report(workdir)}")
    except (InputError, Failure) as error:
        # What was trained is saved, report or not.
        progress.say(f"no report: {error}")


if __name__ == "__main__":
    cli.run_command(main)
