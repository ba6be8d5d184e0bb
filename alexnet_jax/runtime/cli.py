"""How commands read their arguments and how they end."""

import argparse
import functools
import io
import os
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from alexnet_jax.runtime import library_warnings, paths, progress, signals
from alexnet_jax.runtime.errors import (
    Failure,
    InputError,
    Interrupted,
    first_line,
    is_no_threads,
)


DEVICE_MEMORY = "RESOURCE_EXHAUSTED"
NO_DEVICE_MEMORY = (
    "the device's memory is full; take a smaller batch, or see whether another process "
    "holds the memory: a notebook that has used JAX holds most of a GPU's, so train "
    "inside it with alexnet_jax.train.run, or shut it down"
)
SECONDS_BEFORE_AGAIN = 0.01
NO_THREADS = (
    "the system starts no more threads or processes: a limit of the user "
    "(`ulimit -u`), the container or the job is reached; raise it, then give the same "
    "command again"
)


def _path(text: str) -> Path:
    """A path of this machine; see `paths.local`."""
    try:
        return paths.local(text)
    except InputError as error:
        # Of a type's exceptions argparse shows the message of this one alone.
        raise argparse.ArgumentTypeError(str(error)) from error


def path_text(text: str) -> str:
    """The type of an argument that is a path, a pattern of paths or a name."""
    return str(_path(text))


def filled(text: str, width: int) -> str:
    """A help text with its paragraphs as wide as the terminal; indented ones are
    examples, and stay."""
    paragraphs = text.strip("\n").split("\n\n")
    return "\n\n".join(
        paragraph
        if paragraph.startswith(" ")
        else textwrap.fill(
            paragraph, width, break_long_words=False, break_on_hyphens=False
        )
        for paragraph in paragraphs
    )


class _Formatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return filled(text, width)


def mesh_shape(text: str) -> tuple[int, int]:
    """The type of `--mesh`: `1x2` as (data, tower)."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} must be DATAxTOWER, as 1x2")
    return int(found[1]), int(found[2])


class Parser(argparse.ArgumentParser):
    """An argument parser that raises an InputError, and takes no abbreviations.

    In an argument of type Path `~` is the home, and an address of a cloud is an error.

    `command` is the module within the package. A description keeps its paragraphs.
    """

    def __init__(self, command: str = "", **options: Any) -> None:
        options.setdefault("prog", f"python -m alexnet_jax.{command}")
        super().__init__(
            formatter_class=_Formatter,
            allow_abbrev=False,
            **options,
        )
        # Wherever an argument's type is Path.
        self.register("type", Path, _path)

    def add_checkpoint(self) -> None:
        """Add `--checkpoint`."""
        self.add_argument(
            "--checkpoint",
            default="best",
            metavar="best|latest|STEP",
            help="which checkpoint (default: the best by validation error)",
        )

    def add_views(self) -> None:
        """Add `--views`."""
        self.add_argument(
            "--views",
            type=int,
            choices=(1, 10),
            default=1,
            help="1: the centre crop; 10: corners and centre, each also flipped, but "
            "five of a network that was trained without flips",
        )

    def add_dtype(self) -> None:
        """Add `--dtype`."""
        self.add_argument(
            "--dtype",
            choices=("float32", "bfloat16"),
            help="type of the computation (default: as in the run); bfloat16 is faster "
            "on most GPUs and TPUs, and rounds logits to three digits",
        )

    def add_workdir(self) -> None:
        """Add `--workdir`, of a trained network."""
        self.add_argument(
            "--workdir",
            type=Path,
            required=True,
            metavar="DIR",
            help="of a run, or the name of imported weights",
        )

    def add_workdirs(self, several: str) -> None:
        """Add `--workdir`, which may be repeated for the purpose given here."""
        self.add_argument(
            "--workdir",
            type=Path,
            action="append",
            required=True,
            metavar="DIR",
            help="work directory of a run, or the name of imported weights; give it "
            f"again {several}",
        )

    def error(self, message: str) -> NoReturn:
        """Raise an InputError that also says how to get help."""
        raise InputError(f"{message}; see `{self.prog} --help`")


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command and exit with its status.

    0: done. 1: failed. 2: wrong usage or bad input, in one line. 128 and a signal's
    number: stopped by it, as 130 by Ctrl-C and 143 by SIGTERM.
    """
    # A terminal that is not UTF-8 shows escapes for what it lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    library_warnings.silence_logs()
    # In force until a run is ready to save (see `signals`), and in commands that save
    # nothing. Ctrl-C raises KeyboardInterrupt without it.
    for number in signals.stopping():
        if number != signal.SIGINT:
            signal.signal(number, _stopped)
    sys.unraisablehook = functools.partial(_unraisable, sys.unraisablehook)
    status = _status(main)
    # Here and not by Python at its end, where a full disk behind a stream is a
    # traceback, and another exit status.
    error = _flushed(sys.stdout)
    if error is not None and not status:
        progress.complain(progress.no_output(error))
        status = 1
    _flushed(sys.stderr)
    sys.exit(status)


def _status(main: Callable[[], None]) -> int:
    """Run a command; returns its exit status after saying why it failed."""
    try:
        with library_warnings.said_once():
            main()
    except SystemExit as end:
        # Of `--help`, and of commands that have said what is wrong.
        if isinstance(end.code, str):
            progress.complain(end.code)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except InputError as error:
        progress.complain(error)
        return 2
    except Failure as error:
        progress.complain(error)
        if error.abrupt:
            os._exit(1)
        return 1
    except Interrupted as error:
        return error.exit_status
    except KeyboardInterrupt:
        # A second Ctrl-C may have come before a bar was taken away; a third ends the
        # wait for threads, without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        progress.leave_line()
        return 130
    except BrokenPipeError:
        # The reader of the output has ended (as `| head`); nothing more can be written.
        return 0
    except (RuntimeError, OSError) as error:
        if is_no_threads(error):
            progress.complain(NO_THREADS)
            # An ordinary exit would wait for threads that wait for one not started.
            os._exit(1)
        if isinstance(error, OSError):
            # A full disk or a missing file: the system's message names it.
            progress.complain(error)
            return 1
        # JAX's error, by its text: nothing here imports JAX.
        if DEVICE_MEMORY not in str(error):
            raise
        progress.complain(f"{NO_DEVICE_MEMORY} ({first_line(error)[:160]})")
        return 1
    return 0


def _flushed(stream: TextIO | None) -> OSError | None:
    """Write out what a standard stream holds; returns the error of one that takes no
    more, which is then given up. A reader that has ended (`| head`) is no error."""
    if stream is None:
        return None
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return None if isinstance(error, BrokenPipeError) else error
    return None


def _stopped(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _unraisable(
    before: "Callable[[sys.UnraisableHookArgs], object]", what: "sys.UnraisableHookArgs"
) -> None:
    """What a signal raises where Python can't pass it on, as in a garbage collection,
    is not lost: the signal comes once more."""
    error = what.exc_value
    if isinstance(error, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(error, Interrupted):
        number = error.exit_status - 128
    else:
        before(what)
        return
    again = threading.Timer(SECONDS_BEFORE_AGAIN, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
