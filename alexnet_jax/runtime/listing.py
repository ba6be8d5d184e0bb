"""What is in a folder. A drive that is away is an error, not an empty folder: `rglob`
(from Python 3.13 on), `is_dir` and `is_file` (from 3.14 on) take one for the other."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def is_folder(path: Path) -> bool:
    """Whether a folder is there, itself or by a link.

    Raises:
      OSError: if it can't be seen.
    """
    return stat.S_ISDIR(_mode(path))


def is_file(path: Path) -> bool:
    """The same of a file."""
    return stat.S_ISREG(_mode(path))


def _mode(path: Path) -> int:
    """What is there; 0 for nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder in a folder with the names of its files, the folder itself last;
    links to folders are not entered.

    Raises:
      OSError: if one can't be listed.
    """

    def stop(error: OSError) -> None:
        raise error

    for above, _, names in os.walk(folder, topdown=False, onerror=stop):
        yield Path(above), names


def files_in(folder: Path) -> list[Path]:
    """Every file in a folder at any depth, in the order of their paths.

    Raises:
      OSError: if a folder can't be listed or a file can't be seen.
    """
    found = [above / name for above, names in walk(folder) for name in names]
    return sorted(path for path in found if is_file(path))
