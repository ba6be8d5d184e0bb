"""Saves checkpoints by Orbax, reads them back, and deletes what they supersede.

A state is hashed and written once. A validation at its step adds a small file to the
checkpoint when it is done (`directory.write_validation`).
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from alexnet_jax.checkpoint import directory as directories
from alexnet_jax.checkpoint.errors import Damaged, OtherNetwork
from alexnet_jax.checkpoint.integrity import digests, record_files
from alexnet_jax.checkpoint.orbax_errors import readable, writable
from alexnet_jax.checkpoint.plain_path import plain
from alexnet_jax.checkpoint.reader import (
    DIGESTS,
    ERROR,
    STATE,
    CheckpointReader,
    ocp,
    stored_digests,
)
from alexnet_jax.distributed import consensus, multihost
from alexnet_jax.runtime import atomic, progress
from alexnet_jax.runtime.errors import (
    Diverged,
    Failure,
    InputError,
    Interrupted,
    check_number,
)
from alexnet_jax.runtime.patience import is_away, until_reachable


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Saving:
    """A checkpoint that is being written.

    Attributes:
      state: what is saved; its arrays are gone once the next step has taken them.
      digests: of its arrays.
      done: waits for the end, and raises what went wrong.
    """

    step: int
    state: PyTree
    digests: dict[str, np.ndarray]
    done: Callable[[], object]


class CheckpointWriter(CheckpointReader):
    """The checkpoints of the run that owns a work directory; a context manager.

    A checkpoint counts as saved when its files are on the disk, also should the power
    fail, and it has been read back: its metadata, every array's place in it, the
    digests of what was written. Before that none is deleted for it.

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
        self._saving: _Saving | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "CheckpointWriter":
        self._plain = self._open.enter_context(plain(self._directory))
        self._thread = self._open.enter_context(ThreadPoolExecutor(1, "read back"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Reading back is an exchange of all processes. They come here together without
        # an exception or with one of these; of another, such as a lost process, the
        # others may not know.
        together = kind is None or issubclass(kind, Interrupted | Diverged)
        with self._open:
            try:
                if together or jax.process_count() == 1:
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
        saved = digests(state)
        self._saving = until_reachable(
            self._directory, lambda: self._start(step, state, saved)
        )
        self._known[step] = None

    def _start(self, step: int, state: PyTree, saved: dict[str, np.ndarray]) -> _Saving:
        with writable(self._directory):
            written = ocp.save_checkpointables_async(
                self._plain / str(step), {STATE: state, DIGESTS: saved}
            )
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)

        def finish() -> None:
            with writable(self._directory):
                written.result()
            self._read_back(step, abstract, saved)

        # Of several processes each reads at the same place of its program, since they
        # exchange what they read.
        alone = jax.process_count() == 1
        done = self._thread.submit(finish).result if alone else finish
        return _Saving(step=step, state=state, digests=saved, done=done)

    def _read_back(
        self, step: int, abstract: PyTree, saved: dict[str, np.ndarray]
    ) -> None:
        """Sync a checkpoint, and note its files if it is complete.

        Raises:
          Failure: if it isn't, or the disk does not take it.
        """
        path = self._directory / str(step)
        if multihost.is_main():
            # Orbax renames it when it is complete, and doesn't wait for the disk.
            with writable(self._directory):
                atomic.sync_tree(path)
                atomic.sync(self._directory)
        try:
            with readable(path):
                found = stored_digests(self._plain / str(step), path, abstract)
                for name, digest in saved.items():
                    if not np.array_equal(found[name], digest):
                        raise Damaged(path, f"the checksum of {name} is another")
        except InputError as error:
            if isinstance(error, Damaged | OtherNetwork) and multihost.is_main():
                directories.move_aside(self._directory, {step: error})
            raise Failure(
                f"what was saved can't be read back: {error}; the checkpoints before "
                "it are kept"
            ) from error
        if multihost.is_main():
            record_files(path)

    def wait(self) -> None:
        """Wait until what was saved is read back, and delete what it supersedes.

        Where the drive was away, the state is saved once more if it is still there;
        else the next save takes its place.

        Raises:
          Failure: if it could not be written.
        """
        if self._saving is not None:
            saving, self._saving = self._saving, None
            try:
                saving.done()
            except BaseException as error:
                del self._known[saving.step]
                if jax.process_count() > 1 or not is_away(error):
                    raise
                self._again(saving, error)
        self._delete_superseded()

    def _again(self, saving: _Saving, error: BaseException) -> None:
        """Save once more what a drive that is away has not taken."""
        step, arrays = saving.step, jax.tree.leaves(saving.state)
        if any(array.is_deleted() for array in arrays if isinstance(array, jax.Array)):
            progress.say(
                f"warning: step {step} is not saved ({error}); the next one is"
            )
            return

        def complete() -> None:
            if (self._directory / str(step)).is_dir():
                self._read_back(step, saving.state, saving.digests)
            else:
                self._start(step, saving.state, saving.digests).done()

        until_reachable(self._directory, complete)
        self._known[step] = None

    def record_validation(self, step: int, errors: Mapping[str, float]) -> None:
        """Add a validation's loss and errors to the saved checkpoint of its step.

        Raises:
          Failure: if the checkpoint or this could not be written.
        """
        self.wait()
        if multihost.is_main():
            path = self._directory / str(step)
            until_reachable(path, lambda: directories.write_validation(path, errors))
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
        if multihost.is_main():
            directories.delete(self._directory, superseded)

    def restore_latest(self, abstract_state: PyTree) -> tuple[int, PyTree]:
        """The step and the state of the latest checkpoint that is whole.

        Later ones that are damaged are moved into the folder `damaged` beside the
        checkpoints, with a warning. Every process takes the same step.

        Raises:
          InputError: if none is whole, or one can't be read that is not damaged: it may
            be whole. They stay where they are.
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
            if consensus.all_of(not isinstance(why, Damaged)):
                raise why
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
