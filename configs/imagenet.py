"""The paper's run on ImageNet (ILSVRC-2012, 1,000 classes, 1.28 million images).

Reproduces: the network of run 145 of the 2012 code, which gave the paper's digits, with
its staged run: the learning rate divided by 10 at epochs 25, 51 and 79, the colour
shift off at 67, conv1 slowed at 67 and frozen at 72, 91 epochs. `:paper` is the paper's
network and update rule to the letter, with one rate for all layers that drops when the
validation error stops improving. `:caffe`, `:caffenet` and `:owt` are BVLC's AlexNet,
Caffe's reference network and torchvision's AlexNet with their solvers' rates, decays
and epochs (BVLC/caffe, models/; torchvision's references/classification). Here what
dropout keeps is scaled in evaluation, and there in training, so that the layers behind
it learn at a quarter of their pace; nor are pixels divided by their deviations, as for
torchvision's.

Command:    python -m alexnet_jax.main --config=imagenet --workdir=run
                --config.data.path=PREPARED
Data:       python -m alexnet_jax.prepare --source=imagenet --input=ARCHIVES
                --output=PREPARED
Variants:   :code2012 (default), :paper, :caffe, :caffenet, :owt; :conv6, the network
            with a sixth convolution, and :conv6_finetune, which fine-tunes a run of
            :conv6 on other classes (--config.train.init_from=RUN); and every name of
            `nn.presets.ABLATIONS`: no_norm, pool_2x2, one_tower, no_exchange,
            no_crops, no_colour, no_dropout, tanh, sigmoid, no_conv4, no_conv5, no_fc7;
            :modern, the network of 2012 with recipes of later years: a rate that warms
            up and falls along a cosine, label smoothing, mixup, resized crops, averaged
            weights, decoupled decay, no colour shift
Hardware:   two devices take a tower each, one takes both; more split the batch.
Time:       91 epochs are 117 million images: 16 hours at 2,000 images a second.
Expected:   published for this network on the 2012 validation set with ten crops: 40.7 %
            top-1 and 18.2 % top-5 error. Not measured here, nor is :modern. Published
            for AlexNets of others, one crop, top-1 accuracy: torchvision 56.5 %, BVLC
            57.1 %, neon 58.6 %.
"""

from ml_collections import ConfigDict

from alexnet_jax import preset_config
from alexnet_jax.nn.presets import ABLATIONS


STAGED = {
    "kind": "steps",
    "epochs": (25.0, 51.0, 79.0),
    "colour_epochs": 67.0,
    "layer_rates": {"conv1": ((67, 0.1), (72, 0.0))},
}
# Run 146 of the 2012 code: the network was pretrained on other classes.
FINETUNE = {
    "kind": "steps",
    "learning_rate": 0.001,
    "epochs": (22.0, 42.0),
    "colour_epochs": 38.0,
    "layer_rates": {
        "conv1": ((0, 0.1), (5, 0.01), (7, 0.0)),
        "fc9": ((0, 10.0), (9, 1.0)),
    },
}
# Recipes of later years, by section, with nothing of the network changed: Loshchilov
# and Hutter 2017 (cosine), Goyal et al. 2017 (warm-up), Szegedy et al. 2015 and 2016
# (resized crops, label smoothing), Zhang et al. 2018 (mixup), Loshchilov and Hutter
# 2019 (decoupled decay).
MODERN = {
    "schedule": {"kind": "cosine", "warmup_epochs": 5.0, "colour_shift": 0.0},
    "train": {"epochs": 91.0, "label_smoothing": 0.1},
    "data": {"mixup": 0.2, "crop_area": 0.35},
    "optimizer": {"average": 0.9999, "decoupled_decay": True, "weight_decay": 0.005},
}
# Caffe: 100,000 steps of 256 are 20 epochs.
CAFFE = {"kind": "steps", "epochs": (20.0, 40.0, 60.0, 80.0)}
VARIANTS = (
    *("code2012", "paper", "caffe", "caffenet", "owt"),
    *("conv6", "conv6_finetune", *ABLATIONS, "modern"),
)


def get_config(variant: str = "code2012") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; choose from {', '.join(VARIANTS)}")
    finetune = variant == "conv6_finetune"
    of_network = {"conv6_finetune": "conv6", "modern": "code2012"}
    config = preset_config(of_network.get(variant, variant))
    config.train.update({"epochs": 90.0, "save_minutes": 5.0})
    if finetune:
        config.schedule.update(FINETUNE)
        config.train.epochs = 54.0
    if variant in ("code2012", "conv6", *ABLATIONS):
        config.schedule.update(STAGED)
        config.train.epochs = 91.0
    if variant == "modern":
        for name, values in MODERN.items():
            getattr(config, name).update(values)
    if variant in ("caffe", "caffenet"):
        config.schedule.update(CAFFE)
        config.train.batch_size = 256
    if variant == "owt":
        config.schedule.update({"kind": "steps", "epochs": (30.0, 60.0)})
        config.optimizer.update({"weight_decay": 1e-4, "bias_weight_decay": 1e-4})
        config.train.batch_size = 256
    return config
