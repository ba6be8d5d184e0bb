"""Warnings and logs of libraries, counted and said once when a command ends."""

import collections
import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from alexnet_jax.runtime import optional, progress


# Libraries whose logs reach the terminal.
LOGGERS = ("PIL", "jax", "matplotlib", "orbax")
# Libraries that log the errors which commands report in one line.
SILENT = ("absl", "asyncio")
# What some of their texts mean to a user.
MEANINGS = (
    (r"EXIF", "some images have EXIF data that can't be read, and count as upright"),
    (
        r"TIFF|Truncated File Read|Metadata Warning|Skipping tag",
        "some TIFF files have fields that can't be read; their pixels are",
    ),
    (
        r"NVIDIA GPU may be present",
        "this machine seems to have an NVIDIA GPU, which the installed JAX can't use; "
        "`{cuda12}` or cuda13 installs one that can",
    ),
    (
        r"temporary cache directory|mkdir -p failed",
        "Matplotlib can't write its cache, and does without; MPLCONFIGDIR can name a "
        "folder for it",
    ),
    (r"font cache", "Matplotlib has searched this machine for fonts, once"),
)


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """Inside the block libraries don't write to the terminal; at its end a line for
    each kind of warning says what it was. Where the user asked Python for warnings
    (`-W`, PYTHONWARNINGS) those stay as they are.
    """
    kinds: collections.Counter[str] = collections.Counter()
    collector = _Collector(kinds)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(collector)
        # Not to the root as well, where a library may have put a handler.
        logger.propagate = False
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.showwarning = collector.showwarning
                for category in (UserWarning, RuntimeWarning):
                    warnings.simplefilter("always", category)
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(collector)
            logger.propagate = True
        for kind, count in kinds.items():
            times = f" ({count} times)" if count > 1 else ""
            progress.say(f"note: {kind}{times}")


def silence_cpp_output() -> None:
    """Drop what C++ prints to standard output, as gloo does when processes meet; what
    Python prints still goes there."""
    if sys.stdout is None:
        return
    sys.stdout.flush()
    sys.stdout = os.fdopen(
        os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors
    )
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)


def silence_logs() -> None:
    """Errors of libraries end in a command's own line; their logs add nothing."""
    for library in SILENT:
        logging.getLogger(library).setLevel(logging.CRITICAL)


def silence() -> None:
    """For worker processes, whose warnings nobody counts, and whose errors reach the
    main process."""
    silence_logs()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for name in LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())


class _Collector(logging.Handler):
    def __init__(self, kinds: collections.Counter[str]) -> None:
        super().__init__(logging.WARNING)
        self._kinds = kinds

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record.name.partition(".")[0], record.getMessage())

    def showwarning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Takes the place of `warnings.showwarning`."""
        if issubclass(category, DeprecationWarning):
            # For those who write libraries.
            return
        parts = Path(filename).parts
        place = parts.index("site-packages") + 1 if "site-packages" in parts else -1
        self._note(parts[place], str(message))

    def _note(self, library: str, text: str) -> None:
        for pattern, meaning in MEANINGS:
            if re.search(pattern, text):
                command = optional.install_extra("cuda12")
                self._kinds[meaning.replace("{cuda12}", command)] += 1
                return
        self._kinds[f"{library} warns: {' '.join(text.split())[:300]}"] += 1
