"""Changes a config by `--config.SECTION.KEY=VALUE`.

Absl and ml_collections parse the values by the type that each key has. What they don't
know is done here: None, a factor for a layer that has none yet, and names without
quotes.
"""

import ast
import re
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from alexnet_jax.runs import config as sections
from alexnet_jax.runs.config_file import ConfigDict, load_config, one_line
from alexnet_jax.runtime import paths
from alexnet_jax.runtime.errors import InputError


_OVERRIDE = re.compile(r"--?(no)?config\.(?P<path>[^=]+)(=(?P<value>.*))?", re.DOTALL)
_NAMES = re.compile(r"\(?\s*[A-Za-z_]\w*(\s*,\s*[A-Za-z_]\w*)*\s*,?\s*\)?")
_NUMBER = re.compile(r"-[\d.]")
_ILLEGAL = re.compile(r"flag --config\.(?P<path>[^=]+)=(?P<value>.*?): ", re.DOTALL)
_KINDS: dict[type | None, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
}
_BOOLEANS = ("true", "false", "1", "0")


def expanded(arguments: Sequence[str]) -> list[str]:
    """Arguments with those of every `--flagfile=FILE` in its place.

    Raises:
      InputError: if such a file can't be read.
    """
    try:
        return flags.FlagValues().read_flags_from_files(list(arguments), force_gnu=True)
    except (flags.Error, OSError, UnicodeDecodeError) as error:
        reason = one_line(error).removeprefix("ERROR:: ")
        raise InputError(f"--flagfile can't be read ({reason})") from error


def changed_config(name: str, changes: Sequence[str]) -> ConfigDict:
    """The config of a command's `--config=NAME[:VARIANT]`, with the overrides behind.

    Raises:
      InputError: if there is no such config, or an override is wrong.
    """
    # Before what follows the colon of an address is taken for a variant.
    paths.local(name, "--config")
    name, _, variant = name.partition(":")
    config = load_config(name, variant or None)
    override(config, expanded(changes))
    return config


def override(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Set keys of a config, each given as `--config.SECTION.KEY=VALUE`, or with a space
    between key and value.

    Raises:
      InputError: if a key is unknown, a value is not of its type, or something is no
        override.
    """
    remaining: list[str] = []
    # The keys whose last value is None.
    empty: set[str] = set()
    for text in _joined(config, arguments):
        given = _OVERRIDE.fullmatch(text)
        if given is None:
            remaining.append(text)
            continue
        path, value = given["path"], given["value"]
        _check_known(path, config)
        if "." not in path and not (value or "").lstrip().startswith("{"):
            raise InputError(
                f"--config.{path} is a section; set one of its keys: "
                f"{', '.join(getattr(config, path))}"
            )
        empty.discard(path)
        if _is_by_layer(path):
            _set_by_layer(config, path, value)
        elif value == "None" and _takes_none(path, config):
            before = f"--config.{path}="
            remaining = [kept for kept in remaining if not kept.startswith(before)]
            empty.add(path)
        elif value is None:
            remaining.append(text)
        else:
            several = _type_of(path, config) is tuple
            remaining.append(f"--config.{path}={_names(value) if several else value}")
    _parse(config, remaining)
    for path in empty:
        section, key = path.split(".")
        getattr(config, section)[key] = None


def _joined(config: ConfigDict, arguments: Sequence[str]) -> list[str]:
    """The arguments, with a value behind a space joined to its key."""
    joined: list[str] = []
    waiting = False
    for text in arguments:
        switch = waiting and _type_of(joined[-1].lstrip("-")[7:], config) is bool
        fits = text.lower() in _BOOLEANS if switch else _is_value(text)
        if waiting and fits:
            joined[-1] += f"={text}"
            waiting = False
            continue
        joined.append(text)
        given = _OVERRIDE.fullmatch(text)
        waiting = given is not None and given["value"] is None and given[1] is None
    return joined


def _is_value(text: str) -> bool:
    return not text.startswith("-") or _NUMBER.match(text) is not None


def _type_of(path: str, config: ConfigDict) -> type | None:
    """The type that a key's values must have; None where there is no such key."""
    *folders, key = path.split(".")
    section = _section(config, folders)
    return section.get_type(key) if section is not None and key in section else None


def _section(config: ConfigDict, names: Sequence[str]) -> ConfigDict | None:
    """The section, or the section of a section, of these names, if there is one."""
    section: object = config
    for name in names:
        section = section.get(name) if isinstance(section, ConfigDict) else None
    return section if isinstance(section, ConfigDict) else None


def _is_by_layer(path: str) -> bool:
    section, *keys = path.split(".")
    return 1 <= len(keys) <= 2 and sections.is_by_layer(section, keys[0])


def _set_by_layer(config: ConfigDict, path: str, value: str | None) -> None:
    """Set the value of one layer, or of all at once, of a key such as layer_rates."""
    section, key, *layer = path.split(".")
    try:
        parsed = ast.literal_eval(value or "")
        mapping = {layer[0]: parsed} if layer else dict(parsed or {})
    except (ValueError, SyntaxError, TypeError) as error:
        wanted = "a number, or pairs as ((67, 0.1), (72, 0.0))"
        wanted = wanted if layer else "a dictionary, as {'conv1': 0.1}"
        raise InputError(f"--config.{path}={value or ''} must be {wanted}") from error
    values = getattr(config, section)
    before = values.get(key) if layer else None
    values[key] = ConfigDict({**(before or {}), **mapping})


def _takes_none(path: str, config: ConfigDict) -> bool:
    """Whether a key may be None, or is.

    Raises:
      InputError: if it may not, and is no text either.
    """
    section, *keys = path.split(".")
    if len(keys) != 1:
        return False
    parameter = sections.parameters(section)[keys[0]]
    if sections.may_be_none(parameter) or getattr(config, section)[keys[0]] is None:
        return True
    kind = _type_of(path, config)
    if kind in (int, float, bool):
        raise InputError(
            f"--config.{path}=None can't be: the key must have a value, as "
            f"--config.{path}={parameter.default}"
        )
    return False


def _names(value: str) -> str:
    """Names separated by commas as a tuple of texts; any other value as it is."""
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError):
        if _NAMES.fullmatch(value):
            return repr(tuple(re.findall(r"\w+", value)))
    return value


def _parse(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Set the keys of a config by the flags of ml_collections."""
    values = flags.FlagValues()
    given = ["main", *arguments]
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=given
        )
        stray = values(given)[1:]
    except Exception as error:
        # The flags raise errors of many types, some of them with a traceback inside.
        raise InputError(_illegal(config, one_line(error))) from error
    if stray:
        dashes = "; a key begins with --config." if "config." in stray[0] else ""
        raise InputError(f"stray argument {' '.join(stray)}{dashes}")


def _illegal(config: ConfigDict, message: str) -> str:
    """The message of the flags, in plain words where a value is not of its type."""
    given = _ILLEGAL.match(message)
    kind = _KINDS.get(_type_of(given["path"], config)) if given else None
    if given is None or kind is None:
        return message
    return f"--config.{given['path']}={given['value']} must be {kind}"


def _check_known(path: str, config: ConfigDict) -> None:
    """Raise an InputError if the config has no such key."""
    *folders, key = path.split(".")
    if _is_by_layer(path) and folders[0] in config:
        return
    section = _section(config, folders)
    if section is not None and key in section:
        return
    if not folders or folders[0] not in config:
        raise InputError(
            f"--config.{path} is unknown; sections are {', '.join(config)}"
        )
    while section is None:
        *folders, key = folders
        section = _section(config, folders)
    if path in sections.RENAMED:
        raise InputError(f"--{sections.unknown_key(folders[0], key)}")
    raise InputError(f"--config.{path} is unknown; choose from {', '.join(section)}")
