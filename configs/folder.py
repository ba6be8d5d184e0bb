"""The full network on any folder of pictures; sizes and classes are read from the data.

Reproduces: nothing published. The network of `configs/imagenet.py`, with a rate that
drops when the validation error stops improving.

Command:    python -m alexnet_jax.main --config=configs/folder.py --workdir=run
                --config.data.path=PICTURES
            where PICTURES has CLASS folders, at once or under train and validation.
Hardware:   any. Pictures are decoded on the fly; where the host is the limit, prepare
            them once and train with configs/imagenet.py.
Expected:   depends on the pictures.
"""

from ml_collections import ConfigDict

from alexnet_jax import preset_config


def get_config() -> ConfigDict:
    config = preset_config("code2012")
    config.data.source = "folder"
    config.train.update({"epochs": 90.0, "save_steps": 500})
    return config
