"""Train: flags, config, one call.

    python -m alexnet_jax.main --config=configs/NAME.py[:VARIANT] --workdir=DIR
                               [--config.SECTION.KEY=VALUE ...]

A config is a Python file with a function `get_config`, and is run as code. The configs
that come with the package are also found by name: `--config=quickstart`.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from alexnet_jax import errors, report, train
from alexnet_jax.errors import InputError


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
    values = flags.FlagValues()
    flags.DEFINE_string(
        "workdir", None, "Where the run's files go.", flag_values=values
    )
    arguments = [_found_by_name(argument) for argument in _with_equals(arguments)]
    config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=["main", *arguments]
    )
    given = {argument.split("=")[0].lstrip("-") for argument in arguments}
    for name in ("config", "workdir"):
        if name not in given:
            raise InputError(f"--{name} is missing; {USAGE}")
    try:
        with _importable_configs(arguments):
            rest = values(["main", *arguments])
    except InputError:
        raise
    except Exception as error:
        # A config is the user's code, and whatever it raises is the user's to mend.
        raise InputError(_explain(error, values, arguments)) from error
    if stray := rest[1:]:
        raise InputError(f"stray argument {' '.join(stray)}; {USAGE}")
    return values.config, Path(values.workdir)


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


def _explain(
    error: BaseException, values: flags.FlagValues, arguments: Sequence[str]
) -> str:
    """What is wrong in the arguments, in one line."""
    if "has no attribute 'get_config'" in str(error):
        return f"the config has no function get_config; {USAGE}"
    config = values["config"].value
    if not isinstance(config, ConfigDict):
        return f"the config can't be read ({_one_line(error)}); {USAGE}"
    for argument in arguments:
        name = argument.partition("=")[0].lstrip("-")
        if not name.startswith("config."):
            continue
        *sections, key = name.split(".")[1:]
        section: Any = config
        for part in sections:
            section = section.get(part) if isinstance(section, ConfigDict) else None
        if not isinstance(section, ConfigDict):
            return f"{name} is unknown; sections are {', '.join(sorted(config))}"
        if key not in section:
            return f"{name} is unknown; choose from {', '.join(sorted(section))}"
    return f"{_one_line(error)}; {USAGE}"


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


def main() -> None:
    """The command."""
    arguments = sys.argv[1:]
    if {"--help", "-h", "--helpshort", "--helpfull"} & set(arguments):
        print(f"{__doc__}\n{USAGE}")
        return
    config, workdir = parse(arguments)
    result: dict[str, Any] = train.run(config, workdir)
    report.print_result(result)


if __name__ == "__main__":
    errors.exit_with(main)
