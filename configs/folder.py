"""The full network on any folder of pictures; sizes and classes are read from the data.

Reproduces: nothing published. The network and its training are those of
`configs/imagenet.py`, with a rate that drops when the validation error stops improving.

Command:    python -m alexnet_jax.main --config=configs/folder.py --workdir=run
                --config.data.path=PICTURES
            where PICTURES has CLASS folders, at once or under train and validation.
Hardware:   any. Pictures are decoded on the fly; where the host is the limit, prepare
            them once and train with configs/imagenet.py.
Expected:   depends on the pictures.
"""

import imagenet
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.data.source = "folder"
    config.data.validation_fraction = 0.1
    config.schedule = {
        "kind": "plateau",
        "learning_rate": 0.01,
        "drops": 3,
        "patience": 4,
        "bias_drops": 1,
        "colour_shift": 0.1,
    }
    config.train.update({"epochs": 90.0, "save_steps": 500})
    return config
