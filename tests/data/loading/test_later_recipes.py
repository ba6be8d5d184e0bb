import numpy as np
import pytest
from scipy import stats

from alexnet_jax.data.loading import augment, later_recipes
from alexnet_jax.data.loading.pipeline import Pipeline
from alexnet_jax.data.sources.arrays import array_dataset
from alexnet_jax.runtime.errors import InputError


FALSE_ALARM = 1e-3


def test_draws_depend_on_seed_and_position_alone_and_on_no_ordinary_draw():
    whole, part = later_recipes.draw(3, 0, 5000), later_recipes.draw(3, 17, 9)
    for expected, found in zip(whole, part, strict=True):
        np.testing.assert_array_equal(found, expected[17:26])
    assert (later_recipes.draw(4, 0, 9).centres != whole.centres[:9]).all()
    ordinary = augment.draw(3, 0, 5000, border=0)
    together = np.concatenate(
        [*whole, ordinary.uniforms, ordinary.normals, ordinary.mixing[:, None]], axis=1
    )
    correlations = np.corrcoef(together.T)
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 5 / np.sqrt(5000)


def test_operations_are_equally_likely_and_as_strong_to_either_side():
    which, strength = later_recipes.operations(
        later_recipes.draw(0, 0, 6000), strength=0.3
    )
    kinds = len(later_recipes.OPERATIONS)
    for place in range(later_recipes.OF_EACH_IMAGE):
        counts = np.bincount(2 * which[:, place] + (strength[:, place] > 0))
        assert len(counts) == 2 * kinds
        assert stats.chisquare(counts).pvalue > FALSE_ALARM
    np.testing.assert_array_equal(np.abs(strength), np.float32(0.3))


def test_a_patch_is_where_the_paper_cuts_and_a_weight_is_the_rest_of_the_area():
    """Pair by pair, as Yun et al. write it; areas by counting pixels."""
    crop, count = 13, 400
    centres = later_recipes.draw(1, 0, count).centres
    weight = augment.weights(augment.draw(1, 0, count, border=0).mixing, alpha=1.0)
    found, own = later_recipes.patches(centres, weight, crop=crop)
    for first in range(0, count, 2):
        y, x = (int(crop * centre) for centre in centres[first])
        side = int(crop * np.sqrt(1 - float(weight[first])))
        inside = [
            (row, column)
            for row in range(crop)
            for column in range(crop)
            if y - side // 2 <= row < y - side // 2 + side
            and x - side // 2 <= column < x - side // 2 + side
        ]
        for image in (first, first + 1):
            top, left, height, width = found[image].tolist()
            assert len(inside) == height * width
            if inside:
                assert inside[0] == (top, left)
                assert inside[-1] == (top + height - 1, left + width - 1)
            assert own[image] == pytest.approx(1 - len(inside) / crop**2)
    # Nearly nothing and nearly everything is replaced.
    assert own.min() < 0.2 and own.max() > 0.95


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"mixup": 0.2, "cutmix": 1.0}, "data.mixup=0.2 and data.cutmix=1.0 both pair"),
        ({"cutmix": -1.0}, "data.cutmix=-1.0 must not be negative"),
        ({"randaugment": 1.5}, "data.randaugment=1.5 must lie from 0 to 1"),
    ],
)
def test_options_out_of_range_are_named(settings, shown):
    images = {"train": np.zeros((2, 8, 8, 3), np.uint8)}
    dataset = array_dataset(images, {"train": np.zeros(2, np.int32)}, ("a",))
    with pytest.raises(InputError, match=shown):
        Pipeline(dataset, crop=8, **settings)
