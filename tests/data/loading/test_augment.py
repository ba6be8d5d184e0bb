from typing import Any

import numpy as np
import pytest
from scipy import stats

from alexnet_jax.data.loading import augment


# Every statistical test here rejects a right generator with this probability. The seeds
# are fixed, so a test that passes passes always.
FALSE_ALARM = 1e-3


def test_every_view_comes_up_and_each_is_a_crop_or_its_flip():
    image = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    expected = set()
    for row in range(3):
        for column in range(3):
            view = image[row : row + 4, column : column + 4]
            expected |= {view.tobytes(), view[:, ::-1].tobytes()}
    draws = augment.draw(0, 0, 600, border=2)
    seen = [
        augment.view(image, row, column, 4, flipped).tobytes()
        for row, column, flipped in zip(*(d.tolist() for d in draws[:3]), strict=True)
    ]
    assert set(seen) == expected
    assert len(expected) == 18


def test_a_crop_is_copied_as_it_is_seen():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    for row, column, flipped in ((0, 3, False), (2, 1, True), (4, 4, True)):
        copy = np.empty((5, 5, 3), np.uint8)
        augment.put(copy, image, row, column, flipped)
        expected = augment.view(image, row, column, 5, flipped)
        np.testing.assert_array_equal(copy, expected)


def test_boxes_have_areas_and_shapes_of_their_range_at_even_places():
    draws = augment.draw(5, 0, 20_000, border=0)
    size = 1000
    boxes = augment.boxes(draws.uniforms, size=size, area=0.2)
    start, sides = boxes[:, :2], boxes[:, 2:]
    assert start.min() == 0 and (start + sides).max() == size
    areas, shapes = sides.prod(axis=1) / size**2, sides[:, 1] / sides[:, 0]
    # Sides longer than the image's are cut; small boxes have the range's shapes.
    assert areas.min() > 0.199 and areas.max() <= 1
    small = areas < 0.7
    assert shapes[small].min() > 0.745 and shapes[small].max() < 1.342
    uncut = areas[small]
    assert stats.kstest((uncut - 0.2) / 0.5, "uniform").pvalue > FALSE_ALARM
    even = np.log(shapes[small]) / np.log(4 / 3) / 2 + 0.5
    assert stats.kstest(even, "uniform").pvalue > FALSE_ALARM
    places = (start[small] + 0.5) / (size + 1 - sides[small])
    for axis in range(2):
        assert stats.kstest(places[:, axis], "uniform").pvalue > FALSE_ALARM
    whole = augment.boxes(draws.uniforms[:9], size=7, area=1.0)
    assert ((whole[:, :2] + whole[:, 2:]) <= 7).all() and whole[:, 2:].max() == 7


def test_a_box_is_resized_as_by_bilinear_interpolation():
    """Against float64 with its own loop; weights are 256ths, so by two levels."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
    for box in ((0, 0, 30, 30), (4, 7, 11, 20), (29, 0, 1, 30), (5, 5, 12, 12)):
        top, left, height, width = box
        part = image[top : top + height, left : left + width].astype(float)
        expected = np.empty((12, 12, 3))
        for row, column in np.ndindex(12, 12):
            y = np.clip((row + 0.5) * height / 12 - 0.5, 0, height - 1)
            x = np.clip((column + 0.5) * width / 12 - 0.5, 0, width - 1)
            (r, dy), (c, dx) = divmod(y, 1), divmod(x, 1)
            r, c = int(r), int(c)
            low, right = min(r + 1, height - 1), min(c + 1, width - 1)
            above = (1 - dx) * part[r, c] + dx * part[r, right]
            below = (1 - dx) * part[low, c] + dx * part[low, right]
            expected[row, column] = (1 - dy) * above + dy * below
        for flipped in (False, True):
            found = np.empty((12, 12, 3), np.uint8)
            augment.put_resized(found, image, np.asarray(box, np.int32), flipped)
            ours = found[:, ::-1] if flipped else found
            assert np.abs(ours - expected).max() < 2.5, box
    # A box of the crop's size is not changed.
    np.testing.assert_array_equal(found[:, ::-1], image[5:17, 5:17])


def test_weights_are_of_the_beta_distribution_and_the_same_for_a_pair():
    draws = augment.draw(2, 0, 20_000, border=0)
    for alpha in (0.2, 1.0):
        weights = augment.weights(draws.mixing, alpha=alpha)
        np.testing.assert_array_equal(weights[::2], weights[1::2])
        own = stats.beta(alpha, alpha)
        assert stats.kstest(weights[::2], own.cdf).pvalue > FALSE_ALARM
    # None of what is drawn for an example goes with another.
    together = np.stack(
        [*draws.uniforms.T, draws.mixing, draws.rows, *draws.normals.T], axis=1
    )
    correlations = np.corrcoef(together[:, together.std(axis=0) > 0].T)
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 5 / np.sqrt(20_000)


@pytest.mark.parametrize("seed", [0, 7])
def test_crops_are_uniform_over_all_places_and_flips_fair(seed):
    draws = augment.draw(seed, 0, 500_000, border=32)
    counts = np.zeros((33, 33, 2), int)
    np.add.at(counts, (draws.rows, draws.columns, draws.flipped.astype(int)), 1)
    assert counts.min() > 0
    assert stats.chisquare(counts.ravel()).pvalue > FALSE_ALARM
    neighbours = draws.rows[:-1] * 33 + draws.rows[1:]
    assert stats.chisquare(np.bincount(neighbours)).pvalue > FALSE_ALARM


def test_draws_depend_on_seed_and_position_alone():
    whole = augment.draw(3, 0, 50, border=32)
    part = augment.draw(3, 17, 9, border=32)
    for expected, found in zip(whole, part, strict=True):
        np.testing.assert_array_equal(found, expected[17:26])
    other = augment.draw(4, 0, 50, border=32)
    assert (other.rows != whole.rows).any()
    far = augment.draw(3, 2**60, 2, border=32)
    assert np.isfinite(far.normals).all()


def test_normals_are_normal_and_independent():
    normals = augment.draw(1, 0, 200_000, border=0).normals
    for direction in range(3):
        test = stats.kstest(normals[:, direction], "norm")
        assert test.pvalue > FALSE_ALARM
    for first, second in ((0, 1), (0, 2), (1, 2)):
        # SciPy makes the class of the result when it is imported.
        pair: Any = stats.pearsonr(normals[:, first], normals[:, second])
        assert pair.pvalue > FALSE_ALARM
    following: Any = stats.pearsonr(normals[:-1, 0], normals[1:, 0])
    assert following.pvalue > FALSE_ALARM


def test_shifts_have_the_variance_of_the_pixels_along_each_direction():
    """The 2012 code scales by standard deviations, so pixels and shifts vary alike."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(0, 20, (3, 3))
    values, directions = np.linalg.eigh(mixing @ mixing.T)
    count = 40_000
    shifts = augment.colour_shifts(
        augment.draw(2, 0, count, border=32).normals,
        deviations=np.sqrt(values),
        directions=directions,
    )
    assert shifts.dtype == np.float32
    along = shifts.astype(np.float64) @ directions
    # The sum of squares over the variance follows a chi-square distribution.
    squares = (along**2).sum(axis=0) / values
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], count)
    assert ((low < squares) & (squares < high)).all()


def test_a_shift_does_not_depend_on_its_neighbours():
    normals = augment.draw(2, 0, 64, border=32).normals
    rng = np.random.default_rng(0)
    settings = {
        "deviations": rng.uniform(1, 99, 3),
        "directions": np.linalg.qr(rng.normal(size=(3, 3)))[0],
    }
    whole = augment.colour_shifts(normals, **settings)
    for start, stop in ((0, 1), (5, 32), (63, 64)):
        part = augment.colour_shifts(normals[start:stop], **settings)
        np.testing.assert_array_equal(part, whole[start:stop])
