"""Checkpoints by Orbax, each with a digest of every array.

Orbax alone restores what a damaged file holds without a word. So the SHA-256 of every
array's bytes is taken before it is saved, stored as a second item of the same
checkpoint, and compared on every restore. A checkpoint may also come from a stranger:
what it is made of is looked at before anything is read.
"""

import gc
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as orbax_v1

from alexnet_jax import processes, progress
from alexnet_jax.errors import Failure, InputError, cannot_write, first_line
from alexnet_jax.proof import METRIC, check_files, digests, error_digest, named


# Its annotations want types of its own where any path or policy will do.
ocp: Any = orbax_v1

STATE, DIGESTS = "state", "digests"
METRICS, DAMAGED, DELETED = "metrics", "damaged", ".deleted"


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
        if keep_latest < 1 or keep_best < 0:
            raise InputError(
                f"checkpoint.keep_latest={keep_latest} must be at least 1, "
                f"checkpoint.keep_best={keep_best} not negative"
            )
        self._directory = directory.absolute()
        self._keep = keep_latest, keep_best
        self._clean = clean
        self._saving: Any = None
        self._checkpointer = self._open()

    def _open(self) -> Any:
        check_files(self._directory)
        self._check_notes()
        if self._clean and processes.is_main():
            for path in self._directory.glob(f"*{DELETED}"):
                shutil.rmtree(path)
        with self._readable(self._directory):
            return ocp.training.Checkpointer(
                self._directory,
                # When to save is the training loop's decision, every save is forced;
                # and what stays is ours, see `wait`.
                save_decision_policy=(
                    ocp.training.save_decision_policies.FixedIntervalPolicy(1)
                ),
                cleanup_tmp_directories=self._clean,
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.wait()
            with self._writable():
                self._checkpointer.close()
        except Failure:
            # Where something else went wrong, that is what is told.
            if error is None:
                raise

    @property
    def steps(self) -> dict[int, float | None]:
        """The steps that are there, each with its validation error if it has one."""
        with self._readable(self._directory):
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

    def save(self, step: int, state: Any, error: float | None = None) -> None:
        """Start to save the state of a step; the device's copy is free on return.

        A step that is there already is saved again only to add its validation error.
        """
        if step in self.steps and (error is None or self.steps[step] is not None):
            return
        self.wait()
        self._remove({step} & set(self.steps))
        metrics = None if error is None else {METRIC: error}
        with self._writable():
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
        with self._writable():
            saving, self._saving = self._saving, None
            if saving is not None:
                # To ask for its result ends the thread that saved, and its open files.
                saving.result()
            self._checkpointer.wait()
        steps = self.steps
        latest, best = self._keep
        # Of equals the latest.
        validated = sorted((e, -step) for step, e in steps.items() if e is not None)
        stay = {*sorted(steps)[-latest:], *(-step for _, step in validated[:best])}
        if self._clean:
            self._remove(set(steps) - stay)

    def _remove(self, steps: set[int]) -> None:
        """Remove checkpoints. Each loses its name first: a kill leaves none in half."""
        if not steps:
            return
        if processes.is_main():
            with self._writable():
                for step in steps:
                    path = self._directory / str(step)
                    nameless = path.rename(path.with_name(path.name + DELETED))
                    shutil.rmtree(nameless)
        processes.wait_for_all("old checkpoints are removed")
        self._checkpointer.reload()

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
        with self._readable(path), context:
            _check_shapes(path, STATE, named(abstract_state))
            if METRIC in _check_shapes(path, DIGESTS, proof):
                proof |= error_digest(None)
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
            state = None
            try:
                state = self.restore(step, abstract_state)
            except InputError as error:
                damaged[step] = error
            if processes.all_of(state is not None):
                break
        else:
            latest = max(damaged, default=None)
            raise InputError(
                f"{damaged[latest]}; the other {len(damaged) - 1} are no better"
                if latest is not None
                else f"no whole checkpoint in {self._directory}"
            )
        if step < max(self.steps):
            self._set_aside(damaged)
        return step, state

    def _check_notes(self) -> None:
        """See that the validation errors can be read, which Orbax reads when it opens.

        The run that saves here moves a checkpoint without them out of the way.
        """
        for note in sorted(self._directory.glob(f"*/{METRICS}/{METRICS}")):
            try:
                metrics = json.loads(note.read_bytes())
                float(metrics[METRIC])
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                damage = InputError(
                    f"checkpoint {note.parents[1]} is damaged: {note} can't be read "
                    f"({first_line(error)}); remove the checkpoint"
                )
                if not self._clean:
                    raise damage from error
                self._move_aside(note.parents[1], damage)

    def _move_aside(self, path: Path, why: InputError) -> None:
        folder = self._directory.parent / DAMAGED
        progress.say(f"warning: {why}; it is put into {folder}")
        if processes.is_main():
            with self._writable():
                _move_into(folder, path)
        processes.wait_for_all("a damaged checkpoint is out of the way")

    def _set_aside(self, damaged: dict[int, InputError]) -> None:
        self._checkpointer.close()
        for step, error in damaged.items():
            self._move_aside(self._directory / str(step), error)
        self._checkpointer = self._open()

    @contextmanager
    def _readable(self, path: Path) -> Iterator[None]:
        """Whatever damaged files make Orbax raise, as one line, without its own."""
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)[:300]}"
            # It leaves work behind, which complains when it is collected.
            gc.collect()
            raise InputError(
                f"checkpoint {path} can't be read ({reason}); "
                "remove it to go on from another"
            ) from error
        finally:
            logging.disable(before)

    @contextmanager
    def _writable(self) -> Iterator[None]:
        """What a disk that is full or gone makes Orbax raise, sooner or later."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            # TensorStore says it in errors of other kinds, on many lines.
            if isinstance(error, jax.errors.JaxRuntimeError):
                raise
            reason = first_line(error)[:160]
            raise Failure(cannot_write(self._directory, reason)) from error


def _check_shapes(path: Path, item: str, expected: dict[str, Any]) -> set[str]:
    """See that arrays have the shapes they must have, before their bytes are read;
    returns the names of all that are there.

    A chunk is read whole: one that is larger than its array would be memory for the
    asking.
    """
    stored = named(ocp.metadata(path, checkpointable_name=item).metadata)
    for name, array in expected.items():
        if name not in stored:
            raise InputError(f"checkpoint {path} has no array {name}; remove it")
        found = stored[name]
        shape, dtype = tuple(found.shape), np.dtype(found.dtype)
        if shape != tuple(array.shape) or dtype != np.dtype(array.dtype):
            raise InputError(
                f"checkpoint {path} is of another network or damaged: array {name} is "
                f"{dtype} of {shape} where {np.dtype(array.dtype)} of "
                f"{tuple(array.shape)} is needed; remove it"
            )
        chunk = getattr(found.storage_metadata, "chunk_shape", None) or ()
        if any(part > max(1, whole) for part, whole in zip(chunk, shape, strict=True)):
            raise InputError(
                f"checkpoint {path} is damaged: array {name} of {shape} is stored in "
                f"chunks of {tuple(chunk)}; remove it"
            )
    return set(stored)


def _move_into(folder: Path, path: Path) -> None:
    folder.mkdir(exist_ok=True)
    place, number = folder / path.name, 1
    while place.exists():
        place = folder / f"{path.name}-{(number := number + 1)}"
    path.rename(place)
