"""What every config starts from: all sections with all their keys."""

from ml_collections import ConfigDict, config_dict
from preset_values import merged


def preset_config(name: str) -> ConfigDict:
    """A config with every key, the preset's network, and data and lengths to be set.

    Raises:
      ValueError: if there is no such preset.
    """
    values = merged(name)
    config = ConfigDict(
        {
            **values,
            "data": {
                "source": "prepared",
                "path": config_dict.placeholder(str),
                "size": 256,
                "validation_fraction": 0.1,
                "crop": 224,
                "crops": True,
                "flip": True,
                "subtract_mean": True,
                "random_labels": 0.0,
                "pixels": "true",
                "corruption_seed": 0,
                "threads": config_dict.placeholder(int),
                "workers": 0,
                "buffer": config_dict.placeholder(int),
                "timeout": 300.0,
            },
            # The global batch, split over the data axis.
            "train": {
                "batch_size": 128,
                "steps": config_dict.placeholder(int),
                "epochs": config_dict.placeholder(float),
                "seed": 0,
                "validate_steps": config_dict.placeholder(int),
                "save_steps": config_dict.placeholder(int),
                "init_from": config_dict.placeholder(str),
            },
            "eval": {"batch_size": 128, "views": 1},
            "mesh": {
                "data": "auto",
                "tower": "auto",
                "platform": config_dict.placeholder(str),
                "virtual_cpu_devices": config_dict.placeholder(int),
            },
            "checkpoint": {"keep_latest": 2, "keep_best": 1},
        }
    )
    config.optimizer.layer_decays = ConfigDict()
    config.schedule.layer_rates = ConfigDict()
    config.model.dropout_after = config_dict.placeholder(tuple)
    config.schedule.colour_epochs = config_dict.placeholder(float)
    # For large batches: linear scaling with a warm-up, and layer-wise rates.
    config.schedule.reference_batch = config_dict.placeholder(int)
    config.schedule.warmup_epochs = config_dict.placeholder(float)
    config.optimizer.trust_coefficient = config_dict.placeholder(float)
    config.update(values)
    return config
