"""Is it the program or the machine: a step that went wrong is computed again.

A step is a function of the state, the batch and the seed, and a batch one of the seed
and the step. Whoever computes a step twice from the same state and gets other numbers
has a device that computes wrong.
"""

import dataclasses
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from alexnet_jax.checkpoint.integrity import named
from alexnet_jax.data.loading.batching import HostBatch
from alexnet_jax.distributed.placement import to_devices
from alexnet_jax.runs.setup import Setup
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import (
    Diverged,
    Failure,
    InputError,
    Miscomputed,
    first_line,
)
from alexnet_jax.training.finite import is_finite
from alexnet_jax.training.held import Cut
from alexnet_jax.training.step import Batch, TrainState, TrainStep


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """What it takes to compute the steps after the latest checkpoint again.

    Attributes:
      setup: of the run.
      first: gives the step of the latest checkpoint that is whole, or 0, and its state.
      batches: gives what the host sends of the batches from a step on.
      watched: the same batches; says to the watchdog how far they are.
      cut: from that, on the devices, to the batches.
      mean: the mean image, on every device.
      validate: measures the errors of a state on the validation split.
      stopped: asked before every step; whether the run was asked to stop.
    """

    setup: Setup
    first: Callable[[], tuple[int, TrainState]]
    batches: Callable[[int], AbstractContextManager[Iterator[HostBatch]]]
    watched: Callable[[Iterator[HostBatch]], Iterator[HostBatch]]
    cut: Cut
    mean: jax.Array
    validate: Callable[[TrainState], dict[str, float]]
    stopped: Callable[[], bool]

    def explained(self, error: Diverged) -> Failure:
        """The error of a run that is no longer finite, with what computing it again
        from the latest checkpoint has shown.

        To be called by all processes together.
        """
        progress.say(f"{error.what}; it is computed again from the latest checkpoint")
        try:
            return self._again(error)
        except (Failure, InputError) as other:
            reason = first_line(other)
        except jax.errors.JaxRuntimeError as other:
            # Most likely no memory for a second state; of several processes another
            # may be lost.
            if jax.process_count() > 1:
                raise
            reason = first_line(other)[:160]
        return Diverged(
            error.step, f"{error.what}; it could not be computed again ({reason})"
        )

    def _again(self, error: Diverged) -> Failure:
        start, state = self.first()
        found = None
        with self.batches(start) as unwatched:
            batches = self.watched(unwatched)
            for step in range(start + 1, error.step + 1):
                if self.stopped():
                    return error
                batch = self.cut(to_devices(next(batches), self.setup.mesh))
                state, metrics = self.setup.steps.train(state, batch, self.mean)
                found = self._not_finite(step, state, metrics)
                if found:
                    break
        if start == error.step and not math.isfinite(self.validate(state)["loss"]):
            found = "with the same parameters"
        if found:
            return Diverged(
                error.step,
                f"{error.what}; again from step {start}: the training diverges, "
                f"{found}",
            )
        if self.setup.determinism.repeats:
            return Miscomputed(
                f"{error.what}; not again from step {start}: this device computes "
                f"wrong ({where()})"
            )
        return Diverged(
            error.step,
            f"{error.what}; not again from step {start}, on a GPU that may add in "
            "another order each time (train.deterministic=true prevents that)",
        )

    def _not_finite(
        self, step: int, state: TrainState, metrics: dict[str, Array]
    ) -> str | None:
        """What is not finite after a step; None if all is.

        The update of a layer is finite where its gradient is, and so are the
        parameters.
        """
        broken = layers_not_finite(state.params)
        loss, rate = (float(metrics[name]) for name in ("loss", "learning_rate"))
        if math.isfinite(loss) and not broken:
            return None
        found = f"in step {step} at a learning rate of {rate:g}"
        if broken:
            order = [*getattr(self.setup.model, "layers", ())]
            last = max(broken, key=lambda name: order.index(name) if order else 0)
            found += f"; from the loss down, the gradient of {last} is the first that "
            found += "is not finite"
        return found


def layers_not_finite(params: PyTree) -> list[str]:
    """The layers that have a parameter which is not finite."""
    finite = jax.device_get({name: is_finite(layer) for name, layer in params.items()})
    return [name for name, good in finite.items() if not good]


def where() -> str:
    """This host, and its devices."""
    return f"{platform.node()}: {', '.join(map(str, jax.local_devices()))}"


def checked(train: TrainStep, every: int) -> TrainStep:
    """A training step of which every so many calls compute the step twice.

    Raises:
      Miscomputed: in that call, if the bytes differ.
    """
    calls = 0

    def run(
        state: TrainState, batch: Batch, mean: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        nonlocal calls
        calls += 1
        if calls % every:
            return train(state, batch, mean)
        # A step takes its state's memory.
        kept = jax.tree.map(jnp.copy, state)
        first, second = train(state, batch, mean), train(kept, batch, mean)
        same = named(jax.device_get(_same_bytes(first, second)))
        if differing := [name for name, equal in same.items() if not equal]:
            names = ", ".join(name.partition(".")[2] for name in differing[:3])
            raise Miscomputed(
                f"step {int(first[0].step)}, computed twice from the same state, gave "
                f"other bytes in {names} and so on: this device computes wrong "
                f"({where()})"
            )
        return first

    return run


@jax.jit
def _same_bytes(first: PyTree, second: PyTree) -> PyTree:
    def equal(one: Array, other: Array) -> Array:
        # As integers, since NaN equals nothing, and 0.0 equals -0.0.
        kind = jnp.dtype(f"uint{8 * one.dtype.itemsize}")
        a, b = (lax.bitcast_convert_type(array, kind) for array in (one, other))
        return jnp.array_equal(a, b)

    return jax.tree.map(equal, first, second)
