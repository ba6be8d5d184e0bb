"""The paper's run on ImageNet (ILSVRC-2012, 1,000 classes, 1.28 million pictures).

Reproduces: the network of run 145 of the 2012 code, which gave the paper's digits, with
its staged run: the rate divided by 10 at epochs 25, 51 and 79, colour noise off at 67,
conv1 slowed at 67 and frozen at 72, 91 epochs. `:paper` is the paper's text to the
letter, with one rate for all layers that drops when the validation error stops to
improve.

Command:    python -m alexnet_jax.main --config=configs/imagenet.py --workdir=run
                --config.data.path=PREPARED
Variants:   :code2012 (default), :paper
Hardware:   two devices take a tower each, one takes both; more split the batch.
Expected:   published for this network on the 2012 validation set with ten crops: 40.7 %
            top-1 and 18.2 % top-5 error. Not measured here.
"""

from ml_collections import ConfigDict, config_dict
from presets import preset


STAGED = {
    "kind": "steps",
    "epochs": (25.0, 51.0, 79.0),
    "colour_epochs": 67.0,
    "layer_rates": {"conv1": ((67, 0.1), (72, 0.0))},
}


def get_config(variant: str = "code2012") -> ConfigDict:
    if variant not in ("code2012", "paper"):
        raise ValueError(f"no variant {variant!r}; choose code2012 or paper")
    config = ConfigDict(preset(variant))
    config.model.update({"dtype": "float32", "activation": "relu", "dropout": 0.5})
    config.data = {
        "source": "prepared",
        "path": config_dict.placeholder(str),
        "size": 256,
        "crop": 224,
        "flip": True,
        "threads": config_dict.placeholder(int),
        "workers": 0,
        "buffer": config_dict.placeholder(int),
    }
    config.optimizer.update({"momentum": 0.9, "weight_decay": 0.0005})
    config.schedule.update({"learning_rate": 0.01, "colour_shift": 0.1})
    if variant == "code2012":
        config.schedule.update(STAGED)
    else:
        config.schedule.update({"kind": "plateau", "drops": 3, "patience": 4})
    config.train = {
        "batch_size": 128,
        "epochs": 91.0 if variant == "code2012" else 90.0,
        "steps": config_dict.placeholder(int),
        "seed": 0,
        "validate_steps": config_dict.placeholder(int),
        "save_steps": 2000,
    }
    config.eval = {"batch_size": 128, "views": 1}
    config.mesh = {
        "data": "auto",
        "tower": "auto",
        "platform": config_dict.placeholder(str),
        "virtual_cpu_devices": config_dict.placeholder(int),
    }
    config.checkpoint = {"keep_latest": 2, "keep_best": 1}
    return config
