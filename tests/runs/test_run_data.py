"""Which mean image a run subtracts."""

import json

import numpy as np
import pytest

from alexnet_jax.data.loading.pipeline import open_pipeline
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.runs import run_data
from alexnet_jax.runs.run_data import Data
from alexnet_jax.runtime.errors import InputError


def pretrained(folder, mean):
    """The work directory of a network that was trained with this mean image."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"data": {}}))
    statistics = Statistics(mean.astype(np.float32), np.ones(3), np.eye(3))
    data = Data(("cat", "dog"), len(mean), 20, "other data", statistics)
    run_data.write_data(folder, data)
    return folder


def measured(folder, init_from=None, **reading):
    """What a run on digits of 24 pixels a side knows of its data."""
    folder.mkdir()
    settings = {"source": "digits", "size": 24, "crop": 20, **reading}
    run_data.note_data(folder, open_pipeline(**settings), init_from)
    return run_data.read_data(folder).statistics


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("alone") / "run")


IMAGE = np.random.default_rng(0).uniform(0, 255, (24, 24, 3))
ZEROS = np.zeros((24, 24, 3), np.float32)


@pytest.mark.parametrize(
    ("theirs", "reading", "expected", "said"),
    [
        (IMAGE, {}, IMAGE, "mean image: that of {}"),
        (ZEROS, {}, ZEROS, "mean image: that of {}"),
        (IMAGE, {"mean": "dataset"}, None, "mean image: that of the data set"),
        (IMAGE, {"subtract_mean": False}, ZEROS, "mean image: none is subtracted"),
        # One colour fits images of any size.
        (
            np.full((256, 256, 3), (1.0, 2.0, 3.0)),
            {},
            np.full((24, 24, 3), (1, 2, 3)),
            "",
        ),
    ],
)
def test_a_pretrained_network_keeps_its_mean_image(
    tmp_path, capsys, alone, theirs, reading, expected, said
):
    source = pretrained(tmp_path / "before", theirs)
    found = measured(tmp_path / "run", source, **reading)
    expected = alone.mean if expected is None else expected.astype(np.float32)
    np.testing.assert_array_equal(found.mean, expected)
    # The colour shift is of the images that are trained on.
    np.testing.assert_array_equal(found.deviations, alone.deviations)
    assert said.format(source) in capsys.readouterr().err


def test_a_mean_image_that_does_not_fit_is_refused(tmp_path):
    source = pretrained(tmp_path / "before", IMAGE[:22, :22])
    with pytest.raises(InputError, match="at 22 pixels a side, .* data.mean=dataset"):
        measured(tmp_path / "run", source)
    assert not (tmp_path / "run" / "data.json").exists()
    measured(tmp_path / "other", source, mean="dataset")


def test_whose_mean_image_it_is_must_be_known(tmp_path):
    with pytest.raises(InputError, match="data.mean='mine' unknown; .*pretrained, dat"):
        measured(tmp_path / "run", mean="mine")
    with pytest.raises(InputError, match="nothing is not a work directory"):
        measured(tmp_path / "other", tmp_path / "nothing")
