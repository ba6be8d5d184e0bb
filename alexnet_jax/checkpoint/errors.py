"""Why a checkpoint can't be restored: each cause has its own name; damage is one."""

import errno
from pathlib import Path

from alexnet_jax.runtime.errors import InputError


# In a checkpoint: the list of its files; see `integrity.record_files`.
FILES_FILE = "files.json"


class Damaged(InputError):
    """Its bytes differ from their checksums, or it lacks a file."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"checkpoint {path} is damaged: {what}")


class Gone(InputError):
    """The run that owns it has deleted it in the meantime."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"checkpoint {path} is no longer there")


class OtherNetwork(InputError):
    """It has not the arrays that are asked for."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"checkpoint {path} is of another network: {what}")


def not_readable(path: Path, error: OSError) -> InputError:
    """The system refuses to read a file or folder of a checkpoint."""
    if error.errno in (errno.EACCES, errno.EPERM):
        advice = "ask its owner for the right to read it (chmod -R a+rX)"
    else:
        advice = "see to the disk, and give the same command again"
    return InputError(
        f"checkpoint {path} can't be read ({error.filename or path}: "
        f"{error.strerror}); {advice}"
    )
