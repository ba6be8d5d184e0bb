"""The exception for what a user can mend, and how a command ends."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn


class InputError(ValueError):
    """Something given by the user is wrong.

    The message is one line: what is wrong, where, and how to mend it. The commands
    print it without a traceback and exit with status 2.
    """


class ProcessLost(RuntimeError):
    """Another process of a run has ended or fallen silent. The message is one line."""


class Interrupted(Exception):
    """The run was asked to stop and has saved what it had."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.exit_status = 128 + number


def first_line(error: BaseException) -> str:
    """An exception's message in one line, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def exit_with(main: Callable[[], None]) -> NoReturn:
    """Run a command and leave with its exit status.

    0 done, 1 failed, 2 wrong usage or bad input in one line, 130 or 143 interrupted.
    """
    status = 0
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except ProcessLost as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        # At an ordinary exit JAX would wait for the processes that are lost.
        os._exit(1)
    except Interrupted as error:
        status = error.exit_status
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # Whoever read the output has left; nothing more can be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
