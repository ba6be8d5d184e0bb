"""How commands read their arguments: what is wrong with them is one line."""

import argparse
from typing import Any, NoReturn

from alexnet_jax.errors import InputError


class Parser(argparse.ArgumentParser):
    """A parser that raises an InputError, and takes no abbreviations.

    Args:
      command: its module within the package.
      options: those of `argparse.ArgumentParser`; a description keeps its lines.
    """

    def __init__(self, command: str = "", **options: Any) -> None:
        options.setdefault("prog", f"python -m alexnet_jax.{command}")
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, with the way to help."""
        raise InputError(f"{message}; `{self.prog} --help` tells more")
