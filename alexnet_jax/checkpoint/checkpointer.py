"""Checkpoints by Orbax, each with a checksum of every array.

Orbax alone restores the numbers of a damaged file without an error. So the SHA-256 of
every array's bytes is taken before it is saved, stored as a second item of the same
checkpoint, and compared on every restore.

A state is hashed and written once. A validation at its step adds a small file to the
checkpoint when it is done (`directory.write_validation`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree
from orbax.checkpoint import v1 as orbax_v1

from alexnet_jax.checkpoint import directory as directories
from alexnet_jax.checkpoint.integrity import (
    abstract_digests,
    check_files,
    check_shapes,
    digests,
    named,
)
from alexnet_jax.checkpoint.orbax_errors import readable, writable
from alexnet_jax.distributed import consensus, multihost
from alexnet_jax.runtime.errors import Failure, InputError, check_number


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
          InputError: if it can't be read, or an array differs from its checksum.
        """
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        path = self._directory / str(step)
        check_files(path)
        expected = abstract_digests(abstract_state)
        with readable(path), context:
            stored = named(ocp.metadata(path, checkpointable_name=STATE).metadata)
            check_shapes(path, stored, named(abstract_state))
            stored = named(ocp.metadata(path, checkpointable_name=DIGESTS).metadata)
            check_shapes(path, stored, expected)
            saved = ocp.load(path, expected, checkpointable_name=DIGESTS)
            state = ocp.load(path, abstract_state, checkpointable_name=STATE)
        for name, digest in digests(state).items():
            if not np.array_equal(digest, saved[name]):
                raise InputError(
                    f"checkpoint {path} is damaged: {name} does not match its checksum"
                )
        return state


class CheckpointWriter(CheckpointReader):
    """The checkpoints of the run that owns a work directory; a context manager.

    Args:
      directory: where they lie; it is made, and freed of what a crash left.
      keep_latest: how many of the latest are kept.
      keep_best: how many of the best by validation error are kept beside them.

    Raises:
      InputError: if a number is out of range, or the directory can't be read.
    """

    def __init__(
        self, directory: Path, *, keep_latest: int = 2, keep_best: int = 1
    ) -> None:
        check_number("checkpoint.keep_latest", keep_latest, least=1)
        check_number("checkpoint.keep_best", keep_best)
        super().__init__(directory)
        self._keep_latest, self._keep_best = keep_latest, keep_best
        consensus.in_main(lambda: directories.tidy(self._directory))
        # What all processes know alike, while the main process changes the disk.
        self._known = super().steps
        # The step that is being written, and what waits for it.
        self._saving: tuple[int, Callable[[], object]] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except Failure:
            # Where something else went wrong first, that is what is reported.
            if kind is None:
                raise

    @property
    def steps(self) -> dict[int, float | None]:
        """The steps saved, the one that is being written among them."""
        return dict(self._known)

    def save(self, step: int, state: PyTree) -> None:
        """Start to save the state of a step, unless it is saved already.

        The device's copy is free on return; `wait` waits for the disk.

        Raises:
          Failure: if the save before this one could not be written.
        """
        if step in self._known:
            return
        self.wait()
        with writable(self._directory):
            response = ocp.save_checkpointables_async(
                self._directory / str(step), {STATE: state, DIGESTS: digests(state)}
            )
        self._saving, self._known[step] = (step, response.result), None

    def wait(self) -> None:
        """Wait until what was saved is on the disk, and delete what it supersedes.

        Raises:
          Failure: if it could not be written.
        """
        if self._saving is not None:
            (step, wait), self._saving = self._saving, None
            try:
                with writable(self._directory):
                    wait()
            except BaseException:
                del self._known[step]
                raise
        self._delete_superseded()

    def record_validation(self, step: int, errors: Mapping[str, float]) -> None:
        """Add a validation's loss and errors to the saved checkpoint of its step.

        Raises:
          Failure: if the checkpoint or this could not be written.
        """
        self.wait()
        if multihost.is_main():
            directories.write_validation(self._directory / str(step), errors)
        self._known[step] = errors[ERROR]
        self._delete_superseded()

    def _delete_superseded(self) -> None:
        # Of equal errors the latest stays.
        validated = sorted(
            (e, -step) for step, e in self._known.items() if e is not None
        )
        stay = {*sorted(self._known)[-self._keep_latest :]}
        stay |= {-negative for _, negative in validated[: self._keep_best]}
        superseded = sorted(set(self._known) - stay)
        for step in superseded:
            del self._known[step]
        if superseded and multihost.is_main():
            directories.delete(self._directory, superseded)

    def restore_latest(self, abstract_state: PyTree) -> tuple[int, PyTree]:
        """The step and the state of the latest checkpoint that is whole.

        Later ones that are damaged are moved into the folder `damaged` beside the
        checkpoints, with a warning. Every process takes the same step.

        Raises:
          InputError: if none is whole; they stay where they are.
        """
        damaged: dict[int, InputError] = {}
        for step in sorted(self._known, reverse=True):
            path = self._directory / str(step)
            state, why = None, InputError(f"another process can't read {path}")
            try:
                state = self.restore(step, abstract_state)
            except InputError as error:
                why = error
            if consensus.all_of(state is not None):
                break
            damaged[step] = why
        else:
            raise InputError(
                f"no whole checkpoint in {self._directory}; the latest: "
                f"{next(iter(damaged.values()), 'there is none')}"
            )
        consensus.in_main(lambda: directories.move_aside(self._directory, damaged))
        for later in damaged:
            del self._known[later]
        return step, state

    def validation_error(self, step: int) -> float | None:
        """The top-1 error of the validation at a step, where all processes know it."""
        error = self._known.get(step)
        return error if consensus.all_of(error is not None) else None
