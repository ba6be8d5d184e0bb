"""What a trained network knows of itself."""

from pathlib import Path

import numpy as np
import pytest

from alexnet_jax import AlexNet, preset_config, presets
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.inference.trained import TrainedNetwork
from alexnet_jax.runs.config import plain
from alexnet_jax.runs.run_data import Data


STATISTICS = Statistics(np.zeros((256, 256, 3), np.float32), np.ones(3), np.eye(3))
DATA = Data(("cat", "dog"), 256, 224, "", STATISTICS)


def network(config):
    return TrainedNetwork(Path("run"), plain(config), DATA, 0, "best")


@pytest.mark.parametrize("name", presets)
def test_the_preset_of_a_network_is_known(name):
    config = preset_config(name)
    config.model.dtype = "bfloat16"
    found = network(config).preset
    assert found is not None
    # Some presets change the training alone, and have the same network.
    same = [AlexNet.from_preset(n, num_classes=2) for n in (found, name)]
    assert same[0] == same[1]


def test_a_network_of_its_own_has_no_preset():
    config = preset_config("caffe")
    config.model.layers.conv3.channels = 200
    assert network(config).preset is None
