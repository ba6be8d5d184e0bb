"""Named networks, as plain values of several sections of a config.

A preset is a name for values in several sections. The first, `code2012`, has them all;
the others say where they differ.
"""

from typing import Any


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # Run 145 of the 2012 code, which gave the paper's published digits. Its log ends
    # with the biases' rate as it was, that of its twin on the set of 2010 after a drop.
    "code2012": {
        "model": {
            "towers": 2,
            "channels": (96, 256, 384, 384, 256),
            "kernel_sizes": (11, 5, 3, 3, 3),
            "strides": (4, 1, 1, 1, 1),
            "picture_padding": 0,
            "whiten": False,
            "hidden": (4096, 4096),
            "exchanges": ("conv3", "fc6", "fc7"),
            "activation": "relu",
            "pools": ("conv1", "conv2", "conv5"),
            "pool_window": 3,
            "pool_stride": 2,
            "pool_partial": False,
            "pool_cut": False,
            "norms": ("conv1", "conv2"),
            "norm_before_relu": ("conv1",),
            "norm_after_pool": False,
            "norm_across_towers": False,
            "norm_size": 5,
            "norm_k": 2.0,
            "norm_alpha": 2e-5,
            "norm_beta": 0.75,
            "same_map_norms": ("conv2",),
            "dropout": 0.5,
            "kernel_std": (0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01),
            "bias": (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0),
            "dtype": "float32",
        },
        "optimizer": {
            "momentum": 0.9,
            "weight_decay": 0.0005,
            "bias_weight_decay": 0.0,
            "bias_rate": 2.0,
        },
        "schedule": {
            "kind": "plateau",
            "learning_rate": 0.01,
            "factor": 0.1,
            "drops": 3,
            "patience": 4,
            "epochs": (),
            "bias_drops": 1,
            "colour_shift": 0.1,
        },
    },
    # The paper's text to the letter.
    "paper": {
        "model": {
            "norm_before_relu": (),
            "norm_alpha": 1e-4,
            "same_map_norms": (),
            "kernel_std": (0.01,) * 8,
        },
        "optimizer": {"bias_rate": 1.0, "bias_weight_decay": 0.0005},
        "schedule": {"bias_drops": 3},
    },
    # BVLC's AlexNet as Caffe trains it, for 227x227: normalisation across the border
    # between towers, no same-map norm, biases of 0.1, no colour shift (BVLC/caffe,
    # models/bvlc_alexnet). Its solver's decay of biases is none, its batch 256. Caffe
    # scales what dropout keeps, so that fc7 and fc8 begin there with twice the effect.
    "caffe": {
        "model": {
            "norm_before_relu": (),
            "norm_across_towers": True,
            "norm_k": 1.0,
            "same_map_norms": (),
            "kernel_std": (0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01),
            "bias": (0.0, 0.1, 0.0, 0.1, 0.1, 0.1, 0.1, 0.0),
        },
        "schedule": {"bias_drops": 4, "colour_shift": 0.0},
    },
    # torchvision's AlexNet: the single tower of "One weird trick" (Krizhevsky 2014,
    # 1404.5997) without normalisation, and dropout before fc6 and fc7. It draws its
    # initial values otherwise; these are of about their size.
    "owt": {
        "model": {
            "towers": 1,
            "channels": (64, 192, 384, 256, 256),
            "picture_padding": 2,
            "exchanges": (),
            "norms": (),
            "norm_before_relu": (),
            "same_map_norms": (),
            "dropout_after": ("conv5", "fc6"),
            "kernel_std": (0.03, 0.014, 0.014, 0.01, 0.012, 0.006, 0.009, 0.009),
            "bias": (0.0,) * 8,
        },
        "optimizer": {"bias_rate": 1.0, "bias_weight_decay": 0.0005},
        "schedule": {"bias_drops": 3, "colour_shift": 0.0},
    },
    # The four-layer network of figure 1, for CIFAR-10. The paper leaves it to the 2012
    # code's examples; this has the widths of their fast network. Its initial kernels
    # keep a signal's size about the same from layer to layer.
    "four_layers": {
        "model": {
            "towers": 1,
            "channels": (32, 32, 64),
            "kernel_sizes": (5, 5, 5),
            "strides": (1, 1, 1),
            "whiten": True,
            "hidden": (),
            "exchanges": (),
            "pools": ("conv1", "conv2", "conv3"),
            "pool_partial": True,
            "norms": (),
            "norm_before_relu": (),
            "same_map_norms": (),
            "dropout": 0.0,
            "kernel_std": (0.1, 0.035, 0.035, 0.03),
            "bias": (0.0, 0.0, 0.0, 0.0),
        },
        "optimizer": {"bias_rate": 1.0, "weight_decay": 0.0},
        "schedule": {"bias_drops": 3, "colour_shift": 0.0},
    },
    # The small network for CIFAR-10 of Zhang et al. 2017, appendix A, for 28x28. The
    # constants of its normalisation and its initial values are not in the text; these
    # are those of TensorFlow's CIFAR-10 tutorial, whose network it resembles.
    "small": {
        "model": {
            "towers": 1,
            "channels": (64, 64),
            "kernel_sizes": (5, 5),
            "strides": (1, 1),
            "whiten": True,
            "hidden": (384, 192),
            "exchanges": (),
            "pools": ("conv1", "conv2"),
            "pool_partial": True,
            "norm_before_relu": (),
            "norm_after_pool": True,
            "norm_size": 9,
            "norm_k": 1.0,
            "norm_alpha": 0.001 / 9,
            "same_map_norms": (),
            "dropout": 0.0,
            "kernel_std": (0.05, 0.05, 0.04, 0.04, 1 / 192),
            "bias": (0.0, 0.1, 0.1, 0.1, 0.0),
        },
        "data": {"crop": 28, "subtract_mean": False},
        "optimizer": {"bias_rate": 1.0, "weight_decay": 0.0},
        "schedule": {"bias_drops": 3, "colour_shift": 0.0},
    },
}


# Caffe's reference network: pooling before normalisation, biases of 1.
PRESETS["caffenet"] = {
    **PRESETS["caffe"],
    "model": {
        **PRESETS["caffe"]["model"],
        "norm_after_pool": True,
        "bias": PRESETS["code2012"]["model"]["bias"],
    },
}


def _without_convolution(index: int) -> dict[str, dict[str, Any]]:
    """`code2012` without one of its convolutions."""
    model = PRESETS["code2012"]["model"]
    names = ("channels", "kernel_sizes", "strides", "kernel_std", "bias")
    left = {name: (*model[name][:index], *model[name][index + 1 :]) for name in names}
    return {
        "model": {
            **left,
            "exchanges": ("conv3", "fc5", "fc6"),
            "pools": ("conv1", "conv2", "conv4"),
        }
    }


# CIFAR-10's four layers with the normalisation of the 2012 code's example, over nine
# maps, after the pooling.
PRESETS["four_layers_norm"] = {
    **PRESETS["four_layers"],
    "model": {
        **PRESETS["four_layers"]["model"],
        "norms": ("conv1", "conv2"),
        "norm_after_pool": True,
        "norm_size": 9,
        "norm_k": 1.0,
        "norm_alpha": 0.001 / 9,
    },
}

# The network with a sixth convolution over the last pooling, which sees both towers
# (CNN* in table 2; run 146 of the 2012 code).
PRESETS["conv6"] = {
    "model": {
        "channels": (96, 256, 384, 384, 256, 256),
        "kernel_sizes": (11, 5, 3, 3, 3, 3),
        "strides": (4, 1, 1, 1, 1, 1),
        "exchanges": ("conv3", "conv6", "fc7", "fc8"),
        "kernel_std": (0.01, 0.01, 0.03, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01),
        "bias": (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    },
}

# What the paper takes away, one thing at a time, from `code2012`.
ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    # Section 3.3. The 2012 code's run 148 also left out the same-map norm.
    "no_norm": {"model": {"norms": (), "norm_before_relu": (), "same_map_norms": ()}},
    # Section 3.4, run 147.
    "pool_2x2": {"model": {"pool_window": 2, "pool_cut": True}},
    # Section 3.2: half the kernels, but for the last convolution and what comes after.
    "one_tower": {
        "model": {
            "towers": 1,
            "channels": (48, 128, 192, 192, 256),
            "exchanges": (),
        }
    },
    # Not in the paper; run 150, which also widened conv2. Towers meet in the logits.
    "no_exchange": {"model": {"exchanges": ()}},
    # Section 4.1, the first form of augmentation: crops and mirror images.
    "no_crops": {"data": {"crops": False, "flip": False}},
    # Section 4.1, the second form.
    "no_colour": {"schedule": {"colour_shift": 0.0}},
    # Section 4.2.
    "no_dropout": {"model": {"dropout": 0.0}},
    # Section 3.1.
    "tanh": {"model": {"activation": "tanh"}},
    "sigmoid": {"model": {"activation": "sigmoid"}},
    # Section 7: any of the middle layers removed. Later layers move up a number.
    "no_conv4": _without_convolution(3),
    "no_conv5": _without_convolution(4),
    "no_fc7": {
        "model": {
            "hidden": (4096,),
            "exchanges": ("conv3", "fc6"),
            "kernel_std": (0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01),
            "bias": (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0),
        }
    },
}


def merged(name: str) -> dict[str, dict[str, Any]]:
    """All values of `code2012`, by section, and a preset's in their place.

    Raises:
      ValueError: if there is no such preset.
    """
    presets = {**PRESETS, **ABLATIONS}
    if name not in presets:
        raise ValueError(f"no variant {name!r}; choose from {', '.join(presets)}")
    sections = {section: dict(own) for section, own in PRESETS["code2012"].items()}
    for section, values in presets[name].items():
        sections.setdefault(section, {}).update(values)
    return sections
