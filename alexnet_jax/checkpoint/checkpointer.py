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
from alexnet_jax.runtime import atomic, listing, progress
from alexnet_jax.runtime.errors import (
    ENDS_ALL,
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
      before: brings to the disk what must be there before it counts.
    """

    step: int
    state: PyTree
    digests: dict[str, np.ndarray]
    before: Callable[[], None]


class CheckpointWriter(CheckpointReader):
    """The checkpoints of the run that owns a work directory; a context manager.

    A checkpoint counts as saved, and gets its name, when its files are on the disk,
    also should the power fail, and it has been read back: its metadata, every array's
    place in it, the digests of what was written. Before that none is deleted for it.

    Args:
      directory: where they lie; it is made, and freed of what a crash left.
      keep_latest: how many of the latest are kept.
      keep_best: how many of the best by validation error are kept beside them.
      keep_every: those of every so many steps are kept as well, to look at the whole
        run; 0 for none. A step must be saved to be kept (`train.save_steps`).

    Raises:
      InputError: if a number is out of range, or the directory can't be read.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_latest: int = 2,
        keep_best: int = 1,
        keep_every: int = 0,
    ) -> None:
        check_number("checkpoint.keep_latest", keep_latest, least=1)
        check_number("checkpoint.keep_best", keep_best)
        check_number("checkpoint.keep_every", keep_every, whole=True)
        super().__init__(directory)
        self._keep_latest, self._keep_best = keep_latest, keep_best
        self._keep_every = keep_every
        consensus.in_main(lambda: directories.tidy(self._directory))
        # What all processes know alike, while the main process changes the disk.
        self._known = dict(map(tuple, consensus.of_main([*super().steps.items()])))
        self._saving: _Saving | None = None
        self._done: Callable[[], object] = lambda: None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "CheckpointWriter":
        self._plain = self._open.enter_context(plain(self._directory))
        self._thread = self._open.enter_context(ThreadPoolExecutor(1, "read back"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        *_: object,
    ) -> None:
        with self._open:
            alone = error is not None and not isinstance(error, ENDS_ALL)
            if jax.process_count() > 1 and alone:
                # A save by all processes together would wait for one that is lost.
                return
            try:
                self.wait()
            except Failure:
                # Where something else went wrong first, that is what is reported; a
                # signal is nothing wrong, and whoever sent it counts on the save.
                if kind is None or isinstance(error, Interrupted):
                    raise

    @property
    def steps(self) -> dict[int, float | None]:
        """The steps saved, the one that is being written among them."""
        return dict(self._known)

    def save(
        self, step: int, state: PyTree, before: Callable[[], None] = lambda: None
    ) -> None:
        """Start to save the state of a step, unless it is saved already.

        The device's copy is free on return; `wait` waits for the disk.

        Args:
          step: of the state.
          state: the arrays.
          before: brings to the disk what must be there before the checkpoint counts;
            called in the main process, and where that is alone in another thread.

        Raises:
          Failure: if the save before this one could not be written.
        """
        if step in self._known:
            return
        self.wait()
        saving = _Saving(step=step, state=state, digests=digests(state), before=before)
        self._done = until_reachable(self._directory, lambda: self._start(saving))
        self._saving, self._known[step] = saving, None

    def _start(self, saving: _Saving) -> Callable[[], object]:
        """Start to save; returns what waits for the end, and raises what went wrong."""
        path = self._plain / directories.being_saved(saving.step)
        with writable(self._directory):
            written = ocp.save_checkpointables_async(
                path, {STATE: saving.state, DIGESTS: saving.digests}
            )

        def finish() -> None:
            with writable(self._directory):
                written.result()
            self._commit(saving)

        # Of several processes each reads at the same place of its program, since they
        # exchange what they read.
        alone = jax.process_count() == 1
        return self._thread.submit(finish).result if alone else finish

    def _commit(self, saving: _Saving) -> None:
        """Sync a checkpoint, read it back, note its files, and give it its name.

        Raises:
          Failure: if it is not complete, or the disk does not take it.
        """
        step = saving.step
        path = self._directory / directories.being_saved(step)
        if multihost.is_main():
            saving.before()
            # Orbax doesn't wait for the disk.
            with writable(self._directory):
                atomic.sync_tree(path)
        try:
            with readable(path):
                found = stored_digests(self._plain / path.name, path, saving.state)
                for name, digest in saving.digests.items():
                    if not np.array_equal(found[name], digest):
                        raise Damaged(path, f"the checksum of {name} is another")
        except InputError as error:
            if isinstance(error, Damaged | OtherNetwork) and multihost.is_main():
                directories.move_aside(
                    self._directory, {step: error}, ending=directories.SAVING
                )
            raise Failure(
                f"what was saved can't be read back: {error}; the checkpoints before "
                "it are kept"
            ) from error
        if multihost.is_main():
            record_files(path)
            directories.commit(self._directory, step)
        multihost.wait_for_all(f"step {step} is saved")

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
                self._done()
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
            if listing.is_folder(self._directory / directories.being_saved(step)):
                self._commit(saving)
            elif not listing.is_folder(self._directory / str(step)):
                self._start(saving)()
            else:
                # It had its name when the drive went away.
                with writable(self._directory):
                    atomic.sync(self._directory)

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
        superseded = directories.superseded(
            self._known, self._keep_latest, self._keep_best, self._keep_every
        )
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
