"""The whole two-tower network on 8x8 digits, in minutes on two CPU cores.

Reproduces: the topology of section 3.5, conv1 to fc8 in two towers that exchange at
conv3, fc6 and fc7, and its training rule, on the 1,797 scanned digits that come inside
scikit-learn, enlarged so that the network sees 67x67, the smallest size that works out.
A fifth is held out, drawn once from a fixed seed.

Command:    python -m alexnet_jax.main --config=quickstart --workdir=run
Variants:   :code2012 (default), :paper (which hardly learns in ten epochs), :conv6, and
            the ablations of configs/imagenet.py
Hardware:   any; a CPU acts as two devices, one for each tower.
Time:       two to four minutes on two CPU cores.
Expected:   measured, one crop, mean of three seeds: 1.6 % top-1 error; :paper 91.1 %
            (experiments/quickstart/).
"""

from ml_collections import ConfigDict

from alexnet_jax import preset_config
from alexnet_jax.nn.presets import ABLATIONS


VARIANTS = ("code2012", "paper", "conv6", *ABLATIONS)


def get_config(variant: str = "code2012") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; choose from {', '.join(VARIANTS)}")
    config = preset_config(variant)
    # A flipped digit is another one, or none.
    config.data.update({"source": "digits", "size": 77, "crop": 67, "flip": False})
    config.data.validation_fraction = 0.2
    config.schedule.update({"kind": "steps", "epochs": (9.0,)})
    config.train.update({"batch_size": 32, "epochs": 10.0})
    config.eval.batch_size = 60
    config.mesh.virtual_cpu_devices = 2
    return config
