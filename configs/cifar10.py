"""Small networks on CIFAR-10.

Reproduces: `:four_layers` is the network of the paper's figure 1, which compares ReLU
with `--config.model.activation=tanh`; `:four_layers_norm` the same with local response
normalisation (section 3.3: 13 % to 11 % error). `:small` is the small AlexNet of Zhang
et al. 2017, which learns `--config.data.random_labels=1.0` as well.

Command:    python -m alexnet_jax.main --config=configs/cifar10.py --workdir=run
                --config.data.path=PREPARED
Data:       python -m alexnet_jax.prepare --source=folder --input=FOLDER --size=32
                --encoding=raw --output=PREPARED
            where FOLDER has train/CLASS and validation/CLASS with CIFAR-10's images;
            or --source=tfds --input=cifar10 (see experiments/README.md).
Variants:   :small (default), :four_layers, :four_layers_norm
Hardware:   any.
Time:       an epoch of :small takes minutes on two CPU cores.
Expected:   published for :small, Zhang et al., table 1: 76.07 % accuracy as it stands
            here, 9.86 % with random labels, which it learns to 99.82 %. Measured: see
            experiments/generalisation/ and experiments/relu/.
"""

from ml_collections import ConfigDict

from alexnet_jax import preset_config


VARIANTS = ("small", "four_layers", "four_layers_norm")


def get_config(variant: str = "small") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; choose from {', '.join(VARIANTS)}")
    config = preset_config(variant)
    config.data.update({"size": 32, "crops": False, "flip": False})
    config.train.epochs = 100.0
    if variant == "small":
        # A factor of 0.95 after every epoch.
        epochs = tuple(float(epoch) for epoch in range(1, 100))
        config.schedule.update({"kind": "steps", "factor": 0.95, "epochs": epochs})
        config.schedule.bias_drops = None
    else:
        config.data.crop = 32
    return config
