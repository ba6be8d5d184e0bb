import grain
import numpy as np
import pytest

from alexnet_jax.data.loading.order import examples_at


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("examples", [1, 2, 3, 257, 1200])
def test_three_epochs_are_those_of_grain(examples, seed):
    expected = grain.MapDataset.range(examples).shuffle(seed=seed).repeat(3)
    found = examples_at(0, 3 * examples, examples=examples, seed=seed)
    assert found.tolist() == [expected[place] for place in range(3 * examples)]


@pytest.mark.parametrize(
    "examples", [16_384, 16_385, 65_536, 65_538, 131_073, 1_281_167, 2**24]
)
def test_any_place_of_a_large_epoch_is_that_of_grain(examples):
    places = np.random.default_rng(0).integers(0, examples, 3).tolist()
    for place in (0, *places, examples - 1):
        (found,) = examples_at(place, 1, examples=examples, seed=7)
        assert found == grain.experimental.index_shuffle(place, examples - 1, 7, 4)


@pytest.mark.parametrize("examples", [200, 70_000, 2**16 + 1])
def test_every_epoch_has_every_example_once(examples):
    """With 2**16 + 1 examples Grain leaves one out and has another one twice."""
    first = examples_at(0, examples, examples=examples, seed=3)
    second = examples_at(examples, examples, examples=examples, seed=3)
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(examples))
    assert (first != second).any()
    assert (first != np.arange(examples)).mean() > 0.9


def test_a_batch_continues_across_the_end_of_an_epoch():
    whole = examples_at(0, 300, examples=100, seed=5)
    for start, count in ((0, 1), (90, 20), (60, 240), (199, 2)):
        part = examples_at(start, count, examples=100, seed=5)
        np.testing.assert_array_equal(part, whole[start : start + count])
