"""How commands read their arguments: what is wrong with them is one line."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from alexnet_jax.runtime.errors import InputError


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

    def add_checkpoint(self) -> None:
        """`--checkpoint`."""
        self.add_argument(
            "--checkpoint",
            default="best",
            metavar="best|latest|STEP",
            help="which checkpoint (default: best by validation error)",
        )

    def add_views(self) -> None:
        """`--views`."""
        self.add_argument(
            "--views",
            type=int,
            choices=(1, 10),
            default=1,
            help="1: the centre crop; 10: corners, centre and their mirror images",
        )

    def add_workdirs(self, several: str) -> None:
        """`--workdir`, which may be given again for what is said here."""
        self.add_argument(
            "--workdir",
            type=Path,
            action="append",
            required=True,
            metavar="DIR",
            help=f"work directory of a run; give it again {several}",
        )

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, with the way to help."""
        raise InputError(f"{message}; `{self.prog} --help` tells more")
