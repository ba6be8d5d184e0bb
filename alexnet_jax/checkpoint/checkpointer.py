"""Checkpoints by Orbax, each with a digest of every array.

Orbax alone restores what a damaged file holds without a word. So the SHA-256 of every
array's bytes is taken before it is saved, stored as a second item of the same
checkpoint, and compared on every restore. A checkpoint may also come from a stranger:
what it is made of is looked at before anything is read.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from orbax.checkpoint import v1 as orbax_v1

from alexnet_jax.checkpoint import directory as leftovers
from alexnet_jax.checkpoint.broken import readable, writable
from alexnet_jax.checkpoint.integrity import (
    METRIC,
    check_files,
    check_shapes,
    damaged_notes,
    digests,
    error_digest,
    named,
)
from alexnet_jax.distributed import consensus, multihost
from alexnet_jax.runs.workdir import REPLACED
from alexnet_jax.runtime.errors import Failure, InputError, check_number


# Its annotations want types of its own where any path or policy will do.
ocp: Any = orbax_v1

STATE, DIGESTS = "state", "digests"


class Checkpoints:
    """The checkpoints of one work directory.

    Args:
      directory: where they lie; made when something is saved.
      keep_latest: how many of the latest are kept.
      keep_best: how many of the best by validation error are kept beside them.
      clean: whether to remove old checkpoints, and what unfinished saves left behind.
        For the run that saves there, and nobody else.

    Raises:
      InputError: if a number is out of range, or the directory can't be read.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_latest: int = 2,
        keep_best: int = 1,
        clean: bool = False,
    ) -> None:
        check_number("checkpoint.keep_latest", keep_latest, least=1)
        check_number("checkpoint.keep_best", keep_best)
        self._directory = directory.absolute()
        self._keep = keep_latest, keep_best
        self._clean = clean
        self._saving: Any = None
        self._replacing = False
        self._checkpointer = self._open()

    def _open(self) -> Any:
        check_files(self._directory)
        if self._clean:
            consensus.in_main(self._tidy)
        else:
            self._check_notes()
        with readable(self._directory):
            return ocp.training.Checkpointer(
                self._directory,
                # When to save is the training loop's decision, every save is forced;
                # and what stays is ours, see `wait`.
                save_decision_policy=(
                    ocp.training.save_decision_policies.FixedIntervalPolicy(1)
                ),
                cleanup_tmp_directories=self._clean,
            )

    def _tidy(self) -> None:
        """What the run that saves here does first, in its main process."""
        leftovers.put_back(self._directory, damaged_notes(self._directory))
        self._check_notes()
        leftovers.drop_deleted(self._directory)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            try:
                if error is None:
                    self.wait()
                with writable(self._directory):
                    self._checkpointer.close()
            finally:
                if self._replacing and multihost.is_main():
                    leftovers.put_back(self._directory, {})
        except Failure:
            # Where something else went wrong, that is what is told.
            if error is None:
                raise

    @property
    def steps(self) -> dict[int, float | None]:
        """The steps that are there, each with its validation error if it has one."""
        with readable(self._directory):
            return {
                checkpoint.step: (checkpoint.metrics or {}).get(METRIC)
                for checkpoint in self._checkpointer.checkpoints
            }

    def find(self, which: int | str) -> int:
        """The step of the checkpoint asked for.

        Raises:
          InputError: if it isn't there.
        """
        steps = self.steps
        if not steps:
            killed = any(self._directory.glob(f"*{REPLACED}"))
            raise InputError(
                f"no checkpoint in {self._directory}; train with "
                f"`python -m alexnet_jax.main --config=NAME --workdir="
                f"{self._directory.parent}`"
                + (", which also mends what a kill in a save has left" * killed)
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

    def save(self, step: int, state: Any, error: float | None = None) -> None:
        """Start to save the state of a step; the device's copy is free on return.

        A step that is there already is saved again only to add its validation error,
        and stays until that is committed.
        """
        self.wait()
        steps = self.steps
        if step in steps:
            if error is None or steps[step] is not None:
                return
            self._replacing = True
            self._rename({step}, REPLACED)
        metrics = None if error is None else {METRIC: error}
        with writable(self._directory):
            self._saving = self._checkpointer.save_checkpointables_async(
                step,
                {STATE: state, DIGESTS: digests(state) | error_digest(error)},
                force=True,
                metrics=metrics,
            )

    def wait(self) -> None:
        """Wait until what was saved is committed, and remove what it supersedes.

        Raises:
          Failure: if it could not be written; so does the next `save`, and leaving.
        """
        with writable(self._directory):
            saving, self._saving = self._saving, None
            if saving is not None:
                # To ask for its result ends the thread that saved, and its open files.
                saving.result()
            self._checkpointer.wait()
        if self._replacing:
            self._drop_replaced()
        if not self._clean:
            return
        steps = self.steps
        latest, best = self._keep
        # Of equals the latest.
        validated = sorted((e, -step) for step, e in steps.items() if e is not None)
        stay = {*sorted(steps)[-latest:], *(-step for _, step in validated[:best])}
        self._remove(set(steps) - stay)

    def _remove(self, steps: set[int]) -> None:
        """Remove checkpoints. Each loses its name first: a kill leaves none in half."""
        if not steps:
            return
        self._rename(steps, leftovers.DELETED)
        if multihost.is_main():
            leftovers.drop_deleted(self._directory)

    def _rename(self, steps: set[int], ending: str) -> None:
        if multihost.is_main():
            leftovers.rename(self._directory, steps, ending)
        multihost.wait_for_all(f"checkpoints are renamed to {ending}")
        self._checkpointer.reload()

    def _drop_replaced(self) -> None:
        if multihost.is_main():
            leftovers.drop_replaced(self._directory)
        self._replacing = False

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of a step, checked, laid out as the abstract state says.

        A dictionary of some of the state's fields restores these alone.

        Raises:
          InputError: if it can't be read, or an array differs from its digest.
        """
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        path = self._directory / str(step)
        check_files(path)
        proof = digests(abstract_state, abstract=True)
        with readable(path), context:
            stored = named(ocp.metadata(path, checkpointable_name=STATE).metadata)
            check_shapes(path, stored, named(abstract_state))
            stored = named(ocp.metadata(path, checkpointable_name=DIGESTS).metadata)
            if METRIC in stored:
                proof |= error_digest(None)
            check_shapes(path, stored, proof)
            saved = ocp.load(path, proof, checkpointable_name=DIGESTS)
            state = ocp.load(path, abstract_state, checkpointable_name=STATE)
        found = digests(state)
        if METRIC in proof:
            # The plateau rule would count a validation twice whose error had gone.
            found |= error_digest(self.steps[step])
        for name, digest in found.items():
            if not np.array_equal(digest, saved[name]):
                raise InputError(
                    f"checkpoint {path} is damaged: {name} is not what was saved; "
                    "remove the checkpoint to go on from another"
                )
        return state

    def restore_latest(self, abstract_state: Any) -> tuple[int, Any]:
        """The step and the state of the latest checkpoint that is whole.

        Later ones that are damaged are told of and moved out of the way, into the
        folder `damaged` beside the checkpoints. Every process takes the same.

        Raises:
          InputError: if none is whole; they stay where they are.
        """
        damaged: dict[int, InputError] = {}
        for step in sorted(self.steps, reverse=True):
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
                f"no whole checkpoint in {self._directory}; of the latest: "
                f"{next(iter(damaged.values()), 'there is none')}"
            )
        if damaged:
            self._checkpointer.close()
            consensus.in_main(lambda: leftovers.move_aside(self._directory, damaged))
            self._checkpointer = self._open()
            if max(self.steps) > step:
                # What a damaged one was to replace is back under its name.
                return self.restore_latest(abstract_state)
        if self._clean:
            self._drop_replaced()
        return step, state

    def _check_notes(self) -> None:
        """See that the validation errors can be read, which Orbax reads when it opens.

        The run that saves here moves a checkpoint without them out of the way, where
        others are left.
        """
        damaged = damaged_notes(self._directory)
        if not damaged:
            return
        first = next(iter(damaged.values()))
        if not self._clean:
            raise first
        names = {path.name for path in self._directory.iterdir() if path.name.isdigit()}
        if names and names <= set(damaged):
            raise InputError(f"no whole checkpoint in {self._directory}: {first}")
        leftovers.move_aside(self._directory, damaged)
