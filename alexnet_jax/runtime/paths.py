"""Paths that users give: `~` is the home, and an address of a cloud is no path."""

import re
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.runtime.errors import InputError


# Of a Path nothing but one slash is left. One letter alone may be a folder.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_DOWNLOADED = ("http", "https", "ftp", "ftps")


def local(given: str | Path, name: str = "") -> Path:
    """The path of a file or folder of this machine, with `~` as the home.

    Args:
      given: what the user gave.
      name: of the flag or key, for the message.

    Raises:
      InputError: if it is an address, as `gs://bucket/run`; or if there is no home.
    """
    text = f"{name}={given}" if name else str(given)
    path = Path(given)
    found = _ADDRESS.match(str(given))
    # A folder of such a name may be there, or a file before a data set's name behind a
    # colon; addresses have two slashes.
    there = found and (Path(path.parts[0]).exists() or Path(found[1]).is_file())
    if found and ("://" in str(given) or not there):
        scheme = found[1].lower()
        if scheme == "file":
            advice = "give the path alone, without file://"
        elif scheme in _DOWNLOADED:
            advice = "download it, and give the file or folder"
        else:
            advice = (
                "mount it as a folder (gcsfuse, s3fs, rclone mount) or copy it to this "
                "machine, and give that folder"
            )
        raise InputError(
            f"{text} is an address, and only files and folders of this machine are "
            f"read and written; {advice}"
        )
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{text} begins with a home that is not known; give the whole path"
        ) from error


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The ends of paths, as short as they can be and still differ: `a/run`, `b/run`.

    Raises:
      InputError: if a path is given twice.
    """
    whole = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, whole), default=0) + 1):
        ends = ["/".join(parts[-count:]) for parts in whole]
        if len(set(ends)) == len(ends):
            return ends
    twice = next(p for n, p in enumerate(paths) if whole[n] in whole[:n])
    raise InputError(f"{twice} is given twice; give it once")


def check_output(
    path: Path, endings: Sequence[str], flag: str = "--output", *, new: bool = True
) -> None:
    """Raise an InputError for a file that can't be written, before anything is done.

    Args:
      path: of the file.
      endings: those that its name may have.
      flag: that gave it.
      new: whether it must not exist yet.
    """
    if path.suffix not in endings:
        *others, last = endings
        known = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"{flag}={path} must end in {known}")
    if new and path.exists():
        raise InputError(f"{path} exists already; choose another {flag}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path} can't be written: its folder isn't there")
