"""The full network on any folder of images; the classes are its folders.

Reproduces: nothing published. The network of `configs/imagenet.py`, with a learning
rate that drops when the validation error stops improving.

Command:    python -m alexnet_jax.main --config=folder --workdir=run
                --config.data.path=IMAGES
            where IMAGES has CLASS folders, directly or under train and validation.
Hardware:   any. Images are decoded in every epoch; where the host is the limit, prepare
            them once (`python -m alexnet_jax.prepare --source=folder --input=IMAGES
            --output=PREPARED`) and give --config.data.source=prepared
            --config.data.path=PREPARED.
Time:       for photographs like ImageNet's, see configs/imagenet.py.
Expected:   depends on the images.
"""

from ml_collections import ConfigDict

from alexnet_jax import preset_config


def get_config() -> ConfigDict:
    config = preset_config("code2012")
    config.data.source = "folder"
    config.train.update({"epochs": 90.0, "save_minutes": 5.0})
    return config
