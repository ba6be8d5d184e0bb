"""The quickstart's network with a sixth convolution, pretrained on other classes.

    python -m alexnet_jax.main --config=experiments/ensembles/finetune.py --workdir=run
        --config.train.init_from=RUN --config.data.path=IMAGES

The learning rates follow the 2012 code's run 146: a tenth of the usual one, less for
conv1 and then zero, at first ten times more for the last layer, which is re-initialised
where the classes differ.
"""

from typing import Any

import quickstart
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config: Any = quickstart.get_config("conv6")
    config.data.update({"source": "folder"})
    config.schedule.update(
        {
            "learning_rate": 0.001,
            "epochs": (18.0,),
            "layer_rates": {
                "conv1": ((0, 0.1), (2, 0.01), (3, 0.0)),
                "fc9": ((0, 10.0), (4, 1.0)),
            },
        }
    )
    config.train.epochs = 20.0
    return config
