"""The one loop over batches of evaluation and inference, and the errors it measures.

Nothing here opens data: callers bring host batches, read from a data set or decoded
from image files.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import placement
from alexnet_jax.training import losses
from alexnet_jax.training.step import Batch


# Arrays by name, on the host: a batch, or its results.
HostBatch = Mapping[str, np.ndarray]
# Arrays by name, as the device computes them.
Results = Mapping[str, Array]


def over_batches(
    run: Callable[[Batch], Results], batches: Iterable[HostBatch], mesh: Mesh
) -> Iterator[tuple[HostBatch, HostBatch]]:
    """Run a function over batches on every device, while the host makes the next batch.

    One batch is in flight: the next batch is placed and started before the results of
    the last one are fetched, so neither host nor device waits for the other.

    Args:
      run: a jitted function. Of the arrays it returns, those with axes have a row for
        each example; those without are sums over the batch, which leave padding out
        themselves.
      batches: this process's share of each batch; `mask` is false for padding. All of
        the same shapes, or `run` is compiled again.
      mesh: the devices. A batch is split along its data axis.

    Yields:
      Each batch and its results, both on the host and without the rows of padding.
    """
    in_flight: tuple[HostBatch, Results] | None = None
    for batch in batches:
        started = batch, run(placement.to_devices(batch, mesh))
        if in_flight is not None:
            yield _finished(*in_flight)
        in_flight = started
    if in_flight is not None:
        yield _finished(*in_flight)


def _finished(batch: HostBatch, results: Results) -> tuple[HostBatch, HostBatch]:
    """Wait for a batch's results, and drop the rows of padding."""
    on_host: HostBatch = jax.device_get(results)
    mask = batch["mask"]
    if mask.all():
        # Copying a batch of images would take as long as a fast device computes.
        return batch, on_host

    def rows(arrays: HostBatch) -> HostBatch:
        return {n: array[mask] if array.ndim else array for n, array in arrays.items()}

    return rows(batch), rows(on_host)


def places(batch_size: int, mesh: Mesh) -> int:
    """The batch size, rounded up to a multiple of the devices along the data axis."""
    along_data = mesh.shape[meshes.DATA]
    return -(-batch_size // along_data) * along_data


def measure(
    evaluate: Callable[[Batch], tuple[dict[str, Array], Array]],
    batches: Iterable[HostBatch],
    mesh: Mesh,
    *,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Loss and errors (fractions) over all examples of all batches.

    Args:
      evaluate: a step of `step.make_eval_step`, given its parameters and mean image.
      batches: as in `over_batches`.
      mesh: the devices.
      check: called after every batch; may raise.
    """
    # The sums alone: with several processes, none holds all logits.
    sums_of = lambda batch: evaluate(batch)[0]
    total: dict[str, np.float32] = {}
    for _, sums in over_batches(sums_of, batches, mesh):
        # In float32, as on the device: other sums would change a run's last digits.
        for name, value in sums.items():
            total[name] = total.get(name, np.float32(0)) + np.float32(value)
        check()
    return losses.means({name: float(value) for name, value in total.items()})
