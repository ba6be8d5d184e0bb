"""A source that a user writes: a function, by its module and its name."""

import importlib
import os
import sys
import traceback

from alexnet_jax.data.dataset import Dataset
from alexnet_jax.runtime.errors import Failure, InputError, first_line


SPLITS = ("train", "validation")


def is_own(source: str) -> bool:
    """Whether the name of a source is MODULE:FUNCTION."""
    return ":" in source


def open_own(
    source: str, path: str | None, size: int, validation_fraction: float
) -> Dataset:
    """What the function gives, called as `function(path, size, validation_fraction)`.

    Its module is looked for where Python looks, and in the current folder.

    Raises:
      InputError: if there is no such function, it raises, or gives something else.
    """
    module_name, _, function_name = source.partition(":")
    where = f"data.source={source}"
    if {os.getcwd(), ""}.isdisjoint(sys.path):
        # Last, where it hides no other module; worker processes inherit it.
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _of(where, error) from error
        raise InputError(
            f"{where}: there is no module {error.name}; give the command in the folder "
            "that has it, or name that folder in PYTHONPATH"
        ) from error
    except Exception as error:
        raise _of(where, error) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(
            f"{where}: {module.__file__} has no function {function_name or '(no name)'}"
        )
    try:
        dataset = function(path, size, validation_fraction)
    except (InputError, Failure):
        raise
    except Exception as error:
        raise _of(where, error) from error
    if not isinstance(dataset, Dataset) or not set(SPLITS) <= set(dataset.splits):
        raise InputError(
            f"{where}: {function_name} must give a Dataset with the splits "
            f"{' and '.join(SPLITS)}, and gave {dataset!r:.80}"
        )
    return dataset


def _of(where: str, error: Exception) -> InputError:
    """The error for one that a user's code has raised: what it is, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    place = f"{last.filename}, line {last.lineno}"
    return InputError(f"{where}: {type(error).__name__}: {first_line(error)} ({place})")
