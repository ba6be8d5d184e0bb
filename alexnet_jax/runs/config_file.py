"""Config files: found, and executed once.

A config is a Python file with a function `get_config`, which may take the name of a
variant; it is executed as code. The configs that come with the package are found by
name. A config may import another one from its own folder, and those of the package.
"""

import contextlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_collections
from ml_collections import config_dict

from alexnet_jax.runs import config as sections
from alexnet_jax.runtime import paths
from alexnet_jax.runtime.errors import InputError, first_line


if TYPE_CHECKING:

    class ConfigDict(ml_collections.ConfigDict):
        """A config, whose keys ml_collections gives no types."""

        def __getattr__(self, attribute: str) -> Any: ...

else:
    ConfigDict = ml_collections.ConfigDict

# The modules of versions before 0.2 that configs imported.
OLD_MODULES = ("presets", "preset_values")


class ConfigFile(NamedTuple):
    """A config, and what its file says of itself.

    Attributes:
      name: as it was asked for.
      about: the file's docstring.
      variants: the file's VARIANTS, if it has any.
      default: the variant where none is given.
      config: of the variant that was asked for.
    """

    name: str
    about: str
    variants: tuple[str, ...]
    default: str
    config: ConfigDict


def load_config(name: str, variant: str | None = None) -> ConfigDict:
    """The config of a file, with every key of every section.

    >>> config = load_config("imagenet", "paper")
    >>> config.model.layers.conv3.kernel_std = 0.05

    Args:
      name: of a config that comes with the package, or a path that ends in `.py`.
      variant: what follows the colon on the command line, as in `imagenet:paper`.

    Raises:
      InputError: if there is no such config, if it fails, or has an unknown key.
    """
    return open_config(name, variant).config


def open_config(name: str, variant: str | None = None) -> ConfigFile:
    """The config of a file, and what the file says of itself; see `load_config`."""
    module, config = _executed(find(name), variant)
    sections.check(sections.plain(config))
    model = config.get("model")
    if isinstance(model, ConfigDict) and "layers" in model:
        # A config may set rows, as of `nn.layers.changed`, where others set their keys.
        layers = _typed_rows(sections.plain(model.layers))
        del model["layers"]
        model.layers = layers
    taken = list(inspect.signature(module.get_config).parameters.values())
    variants = getattr(module, "VARIANTS", ()) if taken else ()
    default = taken[0].default if taken else ""
    about = inspect.cleandoc(module.__doc__ or "")
    return ConfigFile(name, about, tuple(map(str, variants)), str(default), config)


def preset_config(name: str) -> ConfigDict:
    """A config with every key of every section: defaults, and what a preset changes.

    The data and the length of the run are still to be set.

    Args:
      name: a key of `nn.presets.PRESETS`.

    Raises:
      InputError: if there is no such preset.
    """
    changes = sections.preset(name)
    config = ConfigDict()
    for section in sections.SECTIONS:
        parameters = sections.parameters(section).items()
        made = ConfigDict(
            {
                key: ConfigDict() if sections.is_by_layer(section, key) else _typed(p)
                for key, p in parameters
            }
        )
        for key, value in changes.get(section, {}).items():
            if key == "layers":
                # Other layers altogether, and not further ones.
                del made[key]
                value = _typed_rows(value)
            made[key] = value
        config[section] = made
    return config


def _typed(parameter: inspect.Parameter) -> object:
    """A parameter's default for a ConfigDict, which checks the types of later values.

    None becomes a placeholder of the annotated type.
    """
    value = sections.plain(parameter.default)
    if isinstance(value, Mapping):
        return _typed_rows(value)
    if value is not None:
        return value
    return config_dict.placeholder(typing.get_args(parameter.annotation)[0])


def _typed_rows(layers: sections.Sections) -> ConfigDict:
    """The network's layers, of which each key of each row can be set by itself."""
    rows = {}
    for name, row in layers.items():
        rows[name] = ConfigDict(row)
        if row.get("width", 0) is None:
            rows[name].width = config_dict.placeholder(int)
    return ConfigDict(rows)


def find(name: str) -> Path:
    """The file of a config, by its path or by its name in the package.

    Raises:
      InputError: if there is none.
    """
    path = paths.local(name, "--config")
    if path.suffix != ".py":
        path = config_folder() / f"{name}.py"
    if not path.is_file():
        known = sorted(p.stem for p in config_folder().glob("*.py"))
        raise InputError(
            f"config {name} does not exist; give a file, or one of {', '.join(known)}"
        )
    return path


def config_folder() -> Path:
    """The folder of the package's configs: inside it, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _executed(path: Path, variant: str | None) -> tuple[types.ModuleType, ConfigDict]:
    path = path.resolve()
    # One config may load another.
    name = f"config {path}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _importable(path.parent, config_folder()):
            # Dataclasses look their module up there.
            sys.modules[name] = module
            spec.loader.exec_module(module)
            config = _called(module, path, variant)
    except InputError:
        raise
    except Exception as error:
        # A config is the user's code: whatever it raises is the user's to fix.
        raise InputError(f"config {path}: {one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"config {path}: get_config returns no ConfigDict")
    return module, config


def _called(module: types.ModuleType, path: Path, variant: str | None) -> object:
    function = getattr(module, "get_config", None)
    if function is None:
        raise InputError(f"config {path} has no function get_config")
    if variant is None:
        return function()
    if not inspect.signature(function).parameters:
        raise InputError(f"config {path} has no variants, so no {variant!r}")
    return function(variant)


@contextlib.contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    """While a config is executed, modules of these folders can be imported; they are
    forgotten afterwards, since a config of another folder may have the same name."""
    paths = [str(folder) for folder in folders]
    before = set(sys.modules)
    sys.path[:0] = paths
    try:
        yield
    finally:
        for path in paths:
            sys.path.remove(path)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).parent in folders:
                del sys.modules[name]


def one_line(error: Exception) -> str:
    """What an error of a config or of its flags says, in one line."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    if isinstance(error, ModuleNotFoundError) and error.name in OLD_MODULES:
        return (
            f"the module {error.name} went with version 0.2; write "
            "`from alexnet_jax import preset_config`"
        )
    # A KeyError shows its message in quotes, ml_collections a whole traceback.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    if "Traceback" in str(text):
        text = str(text).strip().splitlines()[-1]
    return " ".join(str(text).split()) or first_line(error)
