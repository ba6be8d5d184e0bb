"""The loop over batches: what it yields, and when it waits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.training import evaluation, losses

from networks import mesh_of
from references import recount


def batches(count, size, padding=0):
    """Numbered rows; the last batch ends with padding."""
    for number in range(count):
        rows = np.arange(number * size, (number + 1) * size, dtype=np.float32)
        mask = np.arange(size) < size - (padding if number == count - 1 else 0)
        yield {"row": rows, "mask": mask}


@jax.jit
def doubled(batch):
    kept = jnp.where(batch["mask"], batch["row"], 0.0)
    return {"twice": 2 * batch["row"], "sum": jnp.sum(kept)}


@pytest.mark.parametrize("data", [1, 2])
def test_every_example_comes_back_once_in_order_without_padding(data):
    parts = []

    def run(batch):
        parts.append([shard.data.shape for shard in batch["row"].addressable_shards])
        return doubled(batch)

    results = [
        *evaluation.over_batches(run, batches(3, 4, padding=3), mesh_of(data, 1))
    ]
    # Each device computes its share of the rows.
    assert parts == [[(4 // data,)] * data] * 3
    rows = np.concatenate([batch["row"] for batch, _ in results])
    twice = np.concatenate([result["twice"] for _, result in results])
    np.testing.assert_array_equal(rows, np.arange(9))
    np.testing.assert_array_equal(twice, 2 * np.arange(9))
    # What has no rows is left as it is.
    np.testing.assert_array_equal([r["sum"] for _, r in results], [6, 22, 8])
    assert all(isinstance(result["twice"], np.ndarray) for _, result in results)


def test_the_next_batch_is_started_before_the_last_one_is_waited_for():
    events = []

    def read():
        for number, batch in enumerate(batches(3, 4)):
            events.append(f"read {number}")
            yield batch

    def run(batch):
        events.append("start")
        return doubled(batch)

    for _, result in evaluation.over_batches(run, read(), mesh_of(1, 1)):
        events.append(f"result {int(result['twice'][0]) // 8}")
    assert events == [
        *("read 0", "start", "read 1", "start", "result 0"),
        *("read 2", "start", "result 1", "result 2"),
    ]


def test_no_batch_is_no_result():
    assert [*evaluation.over_batches(doubled, [], mesh_of(1, 1))] == []


def test_places_are_the_next_multiple_of_the_devices():
    sizes = [evaluation.places(size, mesh_of(2, 1)) for size in (1, 2, 3)]
    assert sizes == [2, 2, 4]


def test_the_measure_is_a_recount_over_all_examples_and_checks_after_each_batch():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (12, 1, 5)).astype(np.float32)
    labels = rng.integers(0, 5, 12).astype(np.int32)
    mask = np.arange(12) < 9
    checked = []

    @jax.jit
    def evaluate(batch):
        log_means = losses.log_mean_probabilities(batch["logits"])
        return losses.sums(log_means, batch["label"], batch["mask"]), batch["logits"]

    parts = [slice(start, start + 4) for start in (0, 4, 8)]
    host = [{"logits": logits[p], "label": labels[p], "mask": mask[p]} for p in parts]
    measured = evaluation.measure(
        evaluate, host, mesh_of(1, 1), check=lambda: checked.append(None)
    )
    expected = recount(logits, labels, mask)
    assert set(measured) == {"loss", "top1_error", "top5_error"}
    for name, value in measured.items():
        assert value == pytest.approx(expected[name] / 9, rel=1e-6)
    assert len(checked) == 3
