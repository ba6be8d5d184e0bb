"""Train: flags, config, one call.

    python -m alexnet_jax.main --config=NAME[:VARIANT] --workdir=DIR
                               [--config.SECTION.KEY=VALUE ...]
                               [--restarts=N]
                               [--mirror=gs://BUCKET/FOLDER] [--no-report]
                               [--distributed[=HOST:PORT --processes=N
                                               --process=I]]

With --distributed several processes train one network, each started with the same
command. On a cluster that JAX knows (SLURM, cloud TPU, Kubernetes, Open MPI) no more is
needed; under SLURM and Open MPI start a process for each GPU, since each takes one.
Elsewhere give the address where process 0 waits, the number of processes, and
the index of this process.

With --restarts=N a training that dies without having been asked to stop (a killed
process, a lost one, a failing device) is started again, up to N times, after a pause
that grows. It is not where the input is wrong, the loss is not finite, a restart has
saved no step, or the checkpoints are gone and there is no mirror to fetch them from. A
restart that waits for the other processes in vain is followed by the next one.

With --mirror what the run saves is copied in the background to an address of the kind
gs://, s3://, file:// or memory://; the same command with an empty --workdir fetches it
and continues. For machines that lose their disks.

A training ends with the drawing of its report, which takes some seconds. With
--no-report or --distributed none is drawn; `python -m alexnet_jax.figures` does.

A config is a Python file with a function `get_config`; it is executed as code. Those
of the package are found by name, `--config=quickstart`; one of your own is a path,
`--config=configs/mine.py`. A single value of
a single layer is `--config.model.layers.conv3.kernel_std=0.05`. `--config=NAME --help`
shows every key of a config with its value, type and meaning.
"""

from alexnet_jax.runtime import cli, hugepages, library_warnings


if __name__ == "__main__":
    # Before the imports that take long, since it restarts the process.
    hugepages.use()

import argparse
import contextlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax import train
from alexnet_jax.checkpoint.directory import steps_in
from alexnet_jax.distributed import multihost
from alexnet_jax.reporting import report
from alexnet_jax.runs import config_file, config_help, overrides, restarts
from alexnet_jax.runs.workdir import CHECKPOINTS
from alexnet_jax.runtime import optional, paths, progress
from alexnet_jax.runtime.errors import Diverged, Failure, InputError, check_number


WIDTH_OF_HELP = 88
# Seconds until every process has noticed that one is lost, and has left.
PAUSE_OF_SEVERAL = multihost.SECONDS_OF_SILENCE + multihost.SECONDS_TO_REPORT + 5.0
HELP = ("--help", "-h", "--helpshort", "--helpfull")
USAGE = (
    "usage: python -m alexnet_jax.main --config=NAME[:VARIANT] --workdir=DIR "
    "[--config.SECTION.KEY=VALUE ...]"
)


def parse(arguments: Sequence[str]) -> tuple[config_file.ConfigDict, Path]:
    """The config with its overrides, and the work directory.

    Raises:
      InputError: on anything wrong in the arguments or in the config they name.
    """
    given, changes = _parsed(arguments)
    return _opened(given, changes), paths.local(given.workdir, "--workdir")


def _parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of this command, and the remaining arguments: overrides of the config.

    They are parsed here and not by absl, so that one config can be executed once.
    """
    parser = cli.Parser("main", add_help=False)
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    parser.add_argument("--mirror")
    parser.add_argument("--distributed", nargs="?", const="")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--no-report", action="store_true")
    return parser.parse_known_args(overrides.expanded(arguments))


def _opened(
    given: argparse.Namespace, changes: Sequence[str]
) -> config_file.ConfigDict:
    for name in ("config", "workdir"):
        if getattr(given, name) is None:
            raise InputError(f"--{name} is missing; {USAGE}")
        if not getattr(given, name):
            raise InputError(f"--{name} is empty; {USAGE}")
    return _config_file(given, changes).config


def _config_file(
    given: argparse.Namespace, changes: Sequence[str]
) -> config_file.ConfigFile:
    # Before what follows the colon of an address is taken for a variant.
    paths.local(given.config, "--config")
    name, _, variant = given.config.partition(":")
    file = config_file.open_config(name, variant or None)
    overrides.override(file.config, changes)
    return file


def help_text(arguments: Sequence[str]) -> str:
    """What `--help` prints: of the command, or of the config that is named.

    Raises:
      InputError: if there is no such config, or an override is wrong.
    """
    given, changes = _parsed([text for text in arguments if text not in HELP])
    width = min(shutil.get_terminal_size().columns, WIDTH_OF_HELP)
    if not given.config:
        known = config_help.listing(width)
        about = cli.filled(f"{__doc__}\n{USAGE}", width)
        return f"{about}\n\nConfigs of the package:\n{known}"
    return config_help.describe(_config_file(given, changes), width)


def start_processes(given: argparse.Namespace) -> bool:
    """Join the other processes, if asked to; returns whether it was asked.

    Raises:
      InputError: if these arguments are wrong, or JAX can't join.
    """
    if given.distributed is not None:
        address = given.distributed or None
        library_warnings.silence_cpp_output()
        multihost.start(
            address,
            given.processes,
            given.process,
            not_joined=restarts.NOT_JOINED if given.restarts else 1,
        )
    elif given.processes is not None or given.process is not None:
        raise InputError("--processes and --process go with --distributed=HOST:PORT")
    return given.distributed is not None


def supervise(given: argparse.Namespace) -> int:
    """Run this command in another process, and again when it dies; see
    `restarts.supervise`. Returns its exit status.

    Raises:
      InputError: if `--workdir` is missing or no path of this machine.
    """
    if not given.workdir:
        raise InputError(f"--workdir is missing; {USAGE}")
    directory = paths.local(given.workdir, "--workdir") / CHECKPOINTS
    # Of several processes all must have ended before one of them starts again.
    alone = given.distributed is None
    return restarts.supervise(
        [sys.executable, *sys.orig_argv[1:]],
        given.restarts,
        lambda: max(steps_in(directory), default=None),
        fetches=given.mirror is not None,
        pause=restarts.FIRST_PAUSE if alone else PAUSE_OF_SEVERAL,
    )


def main() -> None:
    """The command."""
    arguments = sys.argv[1:]
    if set(HELP) & set(arguments):
        progress.show(help_text(arguments))
        return
    given, changes = _parsed(arguments)
    check_number("--restarts", given.restarts)
    if not given.restarts:
        train_network(given, changes)
    elif not restarts.is_supervised():
        sys.exit(supervise(given))
    else:
        try:
            train_network(given, changes)
        except Diverged as error:
            progress.complain(error)
            sys.exit(restarts.DIVERGED)


def train_network(given: argparse.Namespace, changes: Sequence[str]) -> None:
    """Train as the arguments say, draw the report and print the result."""
    several = start_processes(given)
    config, workdir = _opened(given, changes), paths.local(given.workdir, "--workdir")
    # Asking how many processes there are opens the devices; the run does that itself.
    with multihost.together() if several else contextlib.nullcontext():
        result = train.run(config, workdir, given.mirror)
    if multihost.is_main():
        # First: what was trained must not hang on a drawing.
        progress.print_result(result)
        if not several and not given.no_report:
            draw(workdir)


def draw(workdir: Path) -> None:
    """Draw the report of a finished run, where the packages for it are installed."""
    if not report.is_possible():
        progress.say(
            f"no report: `{optional.install(report.PACKAGES[0])}` draws one of every "
            "run"
        )
        return
    try:
        progress.say(f"report: {report.write_report(workdir)}")
    except (InputError, Failure) as error:
        # What was trained is saved, report or not.
        progress.say(f"no report: {error}")


if __name__ == "__main__":
    cli.run_command(main)
