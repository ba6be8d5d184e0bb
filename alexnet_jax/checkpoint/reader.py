"""Finds the checkpoints of a run, and restores them with a proof of every array.

Orbax alone restores the numbers of a damaged file without an error. So the SHA-256 of
every array's bytes is taken before it is saved, stored as a second item of the same
checkpoint, and compared on every restore.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree
from orbax.checkpoint import v1 as orbax_v1

from alexnet_jax.checkpoint import directory as directories
from alexnet_jax.checkpoint.errors import Damaged, Gone
from alexnet_jax.checkpoint.integrity import (
    abstract_digests,
    check_files,
    check_recorded,
    check_shapes,
    digests,
    named,
)
from alexnet_jax.checkpoint.orbax_errors import readable
from alexnet_jax.checkpoint.plain_path import plain
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


# Its annotations ask for its own path and policy types where any will do.
ocp: Any = orbax_v1

STATE, DIGESTS = "state", "digests"
ERROR = "top1_error"


class CheckpointReader:
    """The checkpoints of a work directory, to look at and to restore.

    Args:
      directory: the folder `checkpoints` of a work directory.

    Raises:
      InputError: if it holds anything but plain files and folders.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        check_files(self._directory)

    @property
    def steps(self) -> dict[int, float | None]:
        """The steps that have a checkpoint, each with its top-1 validation error."""
        return {
            step: directories.read_validation(self._directory / str(step)).get(ERROR)
            for step in directories.steps_in(self._directory)
        }

    def find(self, which: int | str) -> int:
        """The step of a checkpoint: `best` by validation error, `latest`, or a step.

        Raises:
          InputError: if there is no such checkpoint.
        """
        steps = self.steps
        if not steps:
            raise InputError(
                f"no checkpoint in {self._directory}; train with "
                f"`python -m alexnet_jax.main --config=NAME --workdir="
                f"{self._directory.parent}`"
            )
        if which == "latest":
            return max(steps)
        if which == "best":
            validated = {s: error for s, error in steps.items() if error is not None}
            # Of equals the latest, which is the one that is kept.
            return max(validated, key=lambda s: (-validated[s], s), default=max(steps))
        if not isinstance(which, int) or which not in steps:
            raise InputError(
                f"no checkpoint of step {which} in {self._directory}; there are "
                f"{', '.join(str(step) for step in sorted(steps))}"
            )
        return which

    def restore(self, step: int, abstract_state: PyTree) -> PyTree:
        """The state of a step, verified, sharded as the abstract state says.

        A dictionary of some of the state's fields restores these alone.

        Raises:
          Damaged: if a file is missing, or bytes differ from their checksums.
          Gone: if the run that owns it has deleted it in the meantime.
          InputError: if it can't be read, or is of another network.
        """
        path = self._directory / str(step)
        with readable(path), plain(self._directory) as directory:
            check_files(path)
            check_recorded(path)
            saved = stored_digests(directory / str(step), path, abstract_state)
            with _partly():
                state = ocp.load(
                    directory / str(step), abstract_state, checkpointable_name=STATE
                )
            for name, digest in digests(state).items():
                if not np.array_equal(digest, saved[name]):
                    raise Damaged(path, f"{name} does not match its checksum")
        return state

    def restore_chosen(
        self, step: int, which: int | str, abstract_state: PyTree
    ) -> tuple[int, PyTree]:
        """The step and the state of a checkpoint that `find` has found.

        Where a running training has deleted it meanwhile, of the one that `which` means
        now.

        Raises:
          InputError: as `find` and `restore`.
        """
        while True:
            try:
                return step, self.restore(step, abstract_state)
            except Gone as gone:
                if isinstance(which, int):
                    raise
                step = self.find(which)
                progress.say(f"{gone}: a run has saved later ones; taking step {step}")


def stored_digests(plain_path: Path, path: Path, state: PyTree) -> dict[str, Any]:
    """The digests stored in a checkpoint, after a check that it has every array of a
    state, in its shape; `path` is for messages."""
    with _partly():
        expected = abstract_digests(state)
        for item, arrays in ((STATE, named(state)), (DIGESTS, expected)):
            stored = named(ocp.metadata(plain_path, checkpointable_name=item).metadata)
            if not stored:
                # Orbax says no more of what it could not read.
                raise FileNotFoundError(f"the list of arrays of {item}")
            check_shapes(path, stored, arrays)
        return ocp.load(plain_path, expected, checkpointable_name=DIGESTS)


def _partly() -> Any:
    """Inside this context Orbax loads some of a checkpoint's arrays."""
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    return context
