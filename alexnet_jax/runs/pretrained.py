"""Work directories of published weights, which are found by the weights' name."""

from pathlib import Path

from alexnet_jax.runtime import optional


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
    theirs."""
    named = len(workdir.parts) == 1 and not workdir.exists()
    if named and optional.is_installed("pooch") and workdir_of(workdir.name).is_dir():
        return workdir_of(workdir.name)
    return workdir
