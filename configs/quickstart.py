"""The whole two-tower network on 8x8 digits, in minutes on two CPU cores.

Reproduces: the topology of section 3.5, conv1 to fc8 in two towers that exchange at
conv3, fc6 and fc7, and its training rule, on the 1,797 scanned digits that come inside
scikit-learn, enlarged so that the network sees 67x67, the smallest size that works out.

Command:    python -m alexnet_jax.main --config=configs/quickstart.py --workdir=run
Hardware:   any; a CPU shows itself as two devices, one for each tower.
Expected:   see the README's results.
"""

from ml_collections import ConfigDict, config_dict
from presets import preset


def get_config() -> ConfigDict:
    config = ConfigDict(preset("code2012"))
    config.data = {
        "source": "digits",
        "path": config_dict.placeholder(str),
        "size": 77,
        "validation_fraction": 0.2,
        "crop": 67,
        "flip": False,
    }
    config.schedule.update(
        {
            "kind": "steps",
            "learning_rate": 0.01,
            "epochs": (9.0,),
            "colour_shift": 0.1,
        }
    )
    config.train = {"batch_size": 32, "epochs": 10.0, "seed": 0}
    config.eval = {"batch_size": 60}
    config.mesh = {"data": 1, "tower": "auto", "virtual_cpu_devices": 2}
    return config
