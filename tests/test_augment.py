import numpy as np

from alexnet_jax import augment


def test_every_view_comes_up_and_each_is_a_crop_or_its_mirror():
    picture = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    expected = set()
    for row in range(3):
        for column in range(3):
            view = picture[row : row + 4, column : column + 4]
            expected |= {view.tobytes(), view[:, ::-1].tobytes()}
    rng = np.random.default_rng(0)
    seen = [augment.random_view(picture, rng, crop=4).tobytes() for _ in range(600)]
    assert set(seen) == expected
    assert len(expected) == 18
    counts = [seen.count(view) for view in expected]
    assert min(counts) > 10


def test_switches():
    picture = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    rng = np.random.default_rng(1)
    centre = picture[1:5, 1:5]
    for _ in range(20):
        view = augment.random_view(picture, rng, crop=4, crops=False, flip=False)
        np.testing.assert_array_equal(view, centre)


def test_switching_one_off_leaves_the_other_draws():
    picture = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    colours = {"deviations": np.ones(3), "directions": np.eye(3)}
    shifts = []
    for flip in (True, False):
        rng = np.random.default_rng(5)
        augment.random_view(picture, rng, crop=4, flip=flip)
        shifts.append(augment.colour_shift(rng, **colours))
    np.testing.assert_array_equal(*shifts)


def test_shifts_have_the_covariance_of_the_pixels():
    """The 2012 code scales by standard deviations, so pixels and shifts vary alike."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(0, 20, (3, 3))
    covariance = mixing @ mixing.T
    values, directions = np.linalg.eigh(covariance)
    settings = {"deviations": np.sqrt(values), "directions": directions}
    shifts = np.stack([augment.colour_shift(rng, **settings) for _ in range(40_000)])
    assert shifts.dtype == np.float32
    error = np.cov(shifts.T) - covariance
    assert np.abs(error).max() < 0.03 * np.abs(covariance).max()
