"""Checkpoints by Orbax, each with a digest of every array.

Orbax alone restores what a damaged file holds without a word. So the SHA-256 of every
array's bytes is taken before it is saved, stored as a second item of the same
checkpoint, and compared on every restore.
"""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as orbax_v1

from alexnet_jax import mesh as meshes
from alexnet_jax.errors import InputError


# Its annotations want types of its own where any path or policy will do.
ocp: Any = orbax_v1

STATE, DIGESTS = "state", "digests"
METRIC = "top1_error"

policies = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints of one work directory.

    Args:
      directory: where they lie; made when something is saved.
      keep_latest: how many of the latest are kept.
      keep_best: how many of the best by validation error are kept beside them.
      clean: whether to remove what an unfinished save left behind. For the run that
        saves there, and nobody else.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_latest: int = 2,
        keep_best: int = 1,
        clean: bool = False,
    ) -> None:
        self._directory = directory.absolute()
        self._checkpointer = ocp.training.Checkpointer(
            self._directory,
            # When to save is the training loop's decision, every save is forced.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(
                1
            ),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep_latest),
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics[METRIC],
                        reverse=True,
                        n=keep_best,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            cleanup_tmp_directories=clean,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._checkpointer.close()

    @property
    def steps(self) -> dict[int, float | None]:
        """The steps that are there, each with its validation error if it has one."""
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
        self._checkpointer.save_checkpointables_async(
            step,
            {STATE: state, DIGESTS: digests(state)},
            force=True,
            overwrite=True,
            metrics=None if error is None else {METRIC: error},
        )

    def wait(self) -> None:
        """Wait until what was saved is committed."""
        self._checkpointer.wait()

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of a step, checked, laid out as the abstract state says.

        A dictionary of some of the state's fields restores these alone.

        Raises:
          InputError: if it can't be read, or an array differs from its digest.
        """
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        path = self._directory / str(step)
        try:
            with context:
                state = ocp.load(path, abstract_state, checkpointable_name=STATE)
                saved = ocp.load(path, checkpointable_name=DIGESTS)
        except Exception as error:
            raise InputError(
                f"checkpoint {path} can't be read "
                f"({type(error).__name__}: {(str(error).splitlines() or [''])[0]}); "
                f"remove it to go on from another"
            ) from error
        for name, digest in digests(state).items():
            if name not in saved or not np.array_equal(digest, saved[name]):
                raise InputError(
                    f"checkpoint {path} is damaged: array {name} is not what was "
                    "saved; remove the checkpoint to go on from another"
                )
        return state


def digests(state: Any) -> dict[str, np.ndarray]:
    """The SHA-256 of each array's type, shape and bytes, by its name in the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): _digest(array)
        for path, array in jax.tree_util.tree_leaves_with_path(state)
    }


def _digest(array: jax.Array) -> np.ndarray:
    host = np.ascontiguousarray(meshes.whole(array))
    digest = hashlib.sha256(f"{host.dtype} {host.shape}".encode())
    digest.update(host.view(np.uint8).reshape(-1).data if host.ndim else host.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)
