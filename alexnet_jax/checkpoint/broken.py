"""What damaged files and full disks make Orbax raise, as one line of ours."""

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.distributed.multihost import is_device_error
from alexnet_jax.runtime.atomic import cannot_write
from alexnet_jax.runtime.errors import Failure, InputError, first_line


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Inside the block, whatever a damaged checkpoint raises is an InputError.

    Orbax's own words about it are not heard.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if is_device_error(error):
            # Their own trouble, want of memory for one, is no damage.
            raise
        reason = f"{type(error).__name__}: {first_line(error)[:300]}"
        # It leaves work behind, which complains when it is collected.
        gc.collect()
        raise InputError(
            f"checkpoint {path} can't be read ({reason}); "
            "remove it to go on from another"
        ) from error
    finally:
        logging.disable(before)


@contextmanager
def writable(directory: Path) -> Iterator[None]:
    """Inside the block, what a disk that is full or gone raises, sooner or later, is a
    Failure."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        # TensorStore says it in errors of other kinds, on many lines.
        if is_device_error(error):
            raise
        reason = first_line(error)[:160]
        sys.unraisablehook = _without_echo
        raise Failure(cannot_write(directory, reason)) from error


def _without_echo(what: "sys.UnraisableHookArgs") -> None:
    """Report an exception that Python can't raise, but for the echo of a failed save:
    what of it was still under way in TensorStore's threads finds Orbax's event loop
    closed."""
    if str(what.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(what)
