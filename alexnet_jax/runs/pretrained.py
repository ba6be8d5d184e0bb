"""Work directories of published weights, which are found by the weights' name."""

from pathlib import Path

from alexnet_jax.runtime import optional
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


def found(workdir: Path) -> Path:
    """A work directory; or, for a name that is none but that of imported weights,
    theirs.

    Raises:
      InputError: if a name is neither.
    """
    if workdir.exists() or len(workdir.parts) != 1:
        return workdir
    if optional.is_installed("pooch") and workdir_of(workdir.name).is_dir():
        return workdir_of(workdir.name)
    raise InputError(
        f"{workdir} is neither a work directory nor the name of imported weights; "
        f"train with `python -m alexnet_jax.main --config=NAME --workdir={workdir}`, or see "
        "`python -m alexnet_jax.weights import --help`"
    )
