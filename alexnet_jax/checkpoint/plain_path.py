"""A directory by a path that Orbax and TensorStore take as it is.

Orbax takes a path for a pattern when it merges what was written: below `lr=[0.1]` it
finds nothing, and says nothing. TensorStore takes a backslash for a slash, and both
take some names for addresses. Such a directory is reached through a link.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from alexnet_jax.runtime.errors import InputError


# Patterns, Windows's slashes, `bucket:/`, and `/s3/...` for `s3://...`.
_ODD = re.compile(r"[*?\[\]\\]|:/|^/(gs|s3|az|hf)/")


def is_plain(path: Path) -> bool:
    """Whether Orbax and TensorStore find the files below an absolute path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        # A name whose bytes are no text.
        return False
    return _ODD.search(f"{path}/") is None


@contextlib.contextmanager
def plain(directory: Path) -> Iterator[Path]:
    """Give a directory, or a link to it whose path has no odd characters.

    Raises:
      InputError: if there is no place for a link, or several processes would need one.
    """
    if is_plain(directory):
        yield directory
        return
    advice = f"choose a path without any of * ? [ ] \\ :/ for {directory}"
    if jax.process_count() > 1:
        # Each host has its own links, and all processes must save to one path.
        raise InputError(f"several processes can't save there; {advice}")
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            link = Path(folder).absolute() / "checkpoints"
            link.symlink_to(directory, target_is_directory=True)
        except OSError as error:
            raise InputError(
                f"no link to it can be made ({error}); {advice}"
            ) from error
        if not is_plain(link):
            raise InputError(f"the temporary folder {folder} is no better; {advice}")
        yield link
