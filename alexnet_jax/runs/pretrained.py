"""Work directories of published weights, which are found by the weights' name."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.runtime import atomic, lock, optional
from alexnet_jax.runtime.errors import InputError


def cache() -> Path:
    """The user's folder for what is fetched, which need not exist.

    Raises:
      InputError: if the package pooch is not installed.
    """
    return Path(optional.require("pooch", "weights by name").os_cache("alexnet_jax"))


def workdir_of(name: str) -> Path:
    """Where the weights of a name are imported to."""
    return cache() / "runs" / name


@contextmanager
def imported(workdir: Path) -> Iterator[Path | None]:
    """An empty folder to import into, which becomes the work directory at the end of
    the block, so that one that is there is whole; None if it is there.

    Raises:
      InputError: if another process imports.
    """
    atomic.make_folder(workdir.parent)
    with lock.locked(workdir.parent, f"{workdir.parent} is in use"):
        if workdir.exists():
            yield None
            return
        staging = workdir.with_name(workdir.name + atomic.PART)
        # What an import that was killed has left.
        shutil.rmtree(staging, ignore_errors=True)
        yield staging
        staging.rename(workdir)
        atomic.sync(workdir.parent)


def found(workdir: Path) -> Path:
    """A work directory; or, for a name that is none but that of imported weights,
    theirs.

    Raises:
      InputError: if a name is neither.
    """
    if workdir.exists() or len(workdir.parts) != 1:
        return workdir
    known = optional.is_installed("pooch")
    if known and workdir_of(workdir.name).is_dir():
        return workdir_of(workdir.name)
    takes = "" if known else f" (which take `{optional.install('pooch')}`)"
    raise InputError(
        f"{workdir} is neither a work directory nor the name of imported weights"
        f"{takes}; "
        "`python -m alexnet_jax.weights import --help` lists the names, and `python -m "
        f"alexnet_jax.main --config=NAME --workdir={workdir}` trains"
    )
