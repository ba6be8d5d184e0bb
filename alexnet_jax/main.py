"""Train: flags, config, one call.

    python -m alexnet_jax.main --config=configs/NAME.py[:VARIANT] --workdir=DIR
                               [--config.SECTION.KEY=VALUE ...]
                               [--distributed[=HOST:PORT --processes=N --process=I]]

With --distributed several processes train as one, each started with the same command.
On a cluster that JAX knows (SLURM, cloud TPU, Kubernetes, Open MPI) that is all; else
give the address where process 0 waits, how many there are, and which one this is.

A config is a Python file with a function `get_config`, and is run as code. The configs
that come with the package are also found by name: `--config=quickstart`.
"""

from alexnet_jax.runtime import cli, hugepages


if __name__ == "__main__":
    # Before the imports that take long, since it starts the process anew.
    hugepages.use()

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from alexnet_jax import train
from alexnet_jax.distributed import multihost
from alexnet_jax.reporting import report
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import Failure, InputError


USAGE = (
    "usage: python -m alexnet_jax.main --config=configs/NAME.py[:VARIANT] "
    "--workdir=DIR [--config.SECTION.KEY=VALUE ...]"
)


def config_folder() -> Path:
    """Where the configs that come with the package lie: inside it, or beside it in a
    checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def parse(arguments: Sequence[str]) -> tuple[ConfigDict, Path]:
    """The config with its overrides, and the work directory.

    Raises:
      InputError: on anything wrong in the arguments or in the config they name.
    """
    arguments = [_found_by_name(argument) for argument in _with_equals(arguments)]
    given = {argument.partition("=")[0].lstrip("-") for argument in arguments}
    for name in ("config", "workdir"):
        if name not in given:
            raise InputError(f"--{name} is missing; {USAGE}")
    overrides = [a for a in arguments if a.lstrip("-").startswith("config.")]
    plain = _parsed([a for a in arguments if a not in overrides]).config
    for override in overrides:
        _check_known(override.partition("=")[0].lstrip("-"), plain)
    values = _parsed(arguments)
    if not values.workdir:
        raise InputError(f"--workdir is empty; {USAGE}")
    return values.config, Path(values.workdir)


def _parsed(arguments: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    arguments = ["main", *arguments]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    flags.DEFINE_string(
        "workdir", None, "Where the run's files go.", flag_values=values
    )
    try:
        with _importable_configs(arguments):
            stray = values(arguments)[1:]
    except Exception as error:
        # A config is the user's code, and whatever it raises is the user's to mend.
        raise InputError(f"{_one_line(error)}; {USAGE}") from error
    if stray:
        raise InputError(f"stray argument {' '.join(stray)}; {USAGE}")
    return values


def _check_known(name: str, config: ConfigDict) -> None:
    """Raise an InputError if `config.SECTION.KEY` is not in the config."""
    *sections, key = name.split(".")[1:]
    section: Any = config
    for part in sections:
        section = section.get(part) if isinstance(section, ConfigDict) else None
    if not isinstance(section, ConfigDict):
        raise InputError(f"--{name} is unknown; sections are {', '.join(config)}")
    if not section:
        raise InputError(
            f"--{name} can't be given here; set it in a config file of your own, as a "
            f"dictionary: config.{'.'.join(sections)}"
        )
    if key not in section:
        raise InputError(f"--{name} is unknown; choose from {', '.join(section)}")


def _with_equals(arguments: Sequence[str]) -> list[str]:
    """`--flag value` as `--flag=value`."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in ("--config", "--workdir"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _found_by_name(argument: str) -> str:
    """`--config=NAME` as the path of the config; the file must be there."""
    flag, _, value = argument.partition("=")
    if flag not in ("--config", "-config"):
        return argument
    name, colon, variant = value.partition(":")
    path = Path(name)
    if path.suffix != ".py":
        path = config_folder() / f"{name}.py"
    if not path.is_file():
        known = sorted(p.stem for p in config_folder().glob("*.py"))
        raise InputError(
            f"config {name} does not exist; give a file, or one of {', '.join(known)}"
        )
    return f"{flag}={path}{colon}{variant}"


@contextlib.contextmanager
def _importable_configs(arguments: Sequence[str]) -> Iterator[None]:
    """While a config is read its own folder and the package's configs can be imported,
    so that one config can build on another."""
    folders = [str(config_folder())]
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag.lstrip("-") == "config":
            folders.insert(0, str(Path(value.partition(":")[0]).resolve().parent))
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)
        # ml_collections runs the next config in the same module, where this one's
        # functions would still be found.
        sys.modules.pop("config_config", None)


def _one_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    # A KeyError shows its message in quotes, ml_collections a whole traceback.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    if "Traceback" in str(text):
        text = str(text).strip().splitlines()[-1]
    return " ".join(str(text).split())


def load_config(name: str, variant: str | None = None) -> ConfigDict:
    """A config without flags, for notebooks and tests.

    Args:
      name: of a config that comes with the package, or a path.
      variant: what follows the colon on the command line.
    """
    value = name if variant is None else f"{name}:{variant}"
    config, _ = parse([f"--config={value}", "--workdir=."])
    return config


def start_processes(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Join the other processes, if asked to.

    Returns the other arguments, and whether it was asked.

    Raises:
      InputError: if these arguments are wrong, or a process doesn't join.
    """
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--distributed", nargs="?", const="")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    try:
        given, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(f"{error}; {USAGE}") from error
    if given.distributed is not None:
        address = given.distributed or None
        multihost.start(address, given.processes, given.process)
    elif given.processes is not None or given.process is not None:
        raise InputError("--processes and --process go with --distributed=HOST:PORT")
    return rest, given.distributed is not None


def main() -> None:
    """The command."""
    arguments = sys.argv[1:]
    if {"--help", "-h", "--helpshort", "--helpfull"} & set(arguments):
        print(f"{__doc__}\n{USAGE}")
        return
    rest, several = start_processes(arguments)
    config, workdir = parse(rest)
    # Asking how many processes there are opens the devices; the run does that itself.
    with multihost.together() if several else contextlib.nullcontext():
        result: dict[str, Any] = train.run(config, workdir)
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
