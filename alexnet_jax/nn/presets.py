"""The networks of the paper, of its ablations, and of others, by name.

`CODE2012` is figure 2 of the paper in eight rows. A preset holds only what differs from
it, as keyword arguments of `AlexNet`. Some presets also change the training: see
`PRESETS` in `training/optimizer.py`, `training/schedule.py` and
`data/loading/pipeline.py`.
"""

from typing import Any

from alexnet_jax.nn.layers import Conv, Dense, Local, Row, changed, numbered, without


# Run 145 of the 2012 code, which gave the paper's published digits. Normalisation comes
# before ReLU in conv1, and a second one within each map follows in conv2.
CODE2012: dict[str, Row] = dict(
    conv1=Conv(96, 11, stride=4, then=("norm", "activation", "pool")),
    conv2=Conv(256, 5, then=("activation", "norm", "same_map_norm", "pool"), bias=1.0),
    conv3=Conv(384, 3, exchange=True, kernel_std=0.03),
    conv4=Conv(384, 3, kernel_std=0.03, bias=1.0),
    conv5=Conv(256, 3, then=("activation", "pool"), kernel_std=0.03, bias=1.0),
    fc6=Dense(4096, exchange=True, bias=1.0),
    fc7=Dense(4096, exchange=True, bias=1.0),
    fc8=Dense(then=()),
)
NO_EXCHANGE = {name: {"exchange": False} for name in ("conv3", "fc6", "fc7")}

# The network of the paper's text: normalisation after ReLU (section 3.5), and standard
# deviations of 0.01 (section 5).
PAPER = changed(
    CODE2012,
    conv1={"then": ("activation", "norm", "pool")},
    conv2={"then": ("activation", "norm", "pool")},
    conv3={"kernel_std": 0.01},
    conv4={"kernel_std": 0.01},
    conv5={"kernel_std": 0.01},
)

# BVLC's AlexNet as Caffe trains it, for 227x227: biases of 0.1, no same-map norm
# (BVLC/caffe, models/bvlc_alexnet). Caffe scales what dropout keeps, so that fc7 and
# fc8 begin there with twice the effect.
CAFFE = changed(
    PAPER,
    conv2={"bias": 0.1},
    conv4={"bias": 0.1},
    conv5={"bias": 0.1},
    fc6={"kernel_std": 0.005, "bias": 0.1},
    fc7={"kernel_std": 0.005, "bias": 0.1},
)

# Caffe's reference network: pooling before normalisation, biases of 1.
CAFFENET = changed(
    CAFFE,
    conv1={"then": ("activation", "pool", "norm")},
    conv2={"then": ("activation", "pool", "norm"), "bias": 1.0},
    conv4={"bias": 1.0},
    conv5={"bias": 1.0},
    fc6={"bias": 1.0},
    fc7={"bias": 1.0},
)

# torchvision's AlexNet: the single tower of "One weird trick" (Krizhevsky 2014,
# 1404.5997) without normalisation, and dropout before fc6 and fc7. torchvision draws
# its initial values in another way; these are of about their size.
OWT: dict[str, Row] = dict(
    conv1=Conv(64, 11, stride=4, then=("activation", "pool"), kernel_std=0.03),
    conv2=Conv(192, 5, then=("activation", "pool"), kernel_std=0.014),
    conv3=Conv(384, 3, kernel_std=0.014),
    conv4=Conv(256, 3, kernel_std=0.01),
    conv5=Conv(256, 3, then=("activation", "pool", "dropout"), kernel_std=0.012),
    fc6=Dense(4096, kernel_std=0.006),
    fc7=Dense(4096, then=("activation",), kernel_std=0.009),
    fc8=Dense(then=(), kernel_std=0.009),
)

# The network with a sixth convolution over the last pooling, which sees both towers
# (CNN* in table 2; run 146 of the 2012 code).
CONV6 = numbered(
    [
        *[row for row in CODE2012.values() if isinstance(row, Conv)],
        Conv(256, 3, exchange=True, kernel_std=0.03, bias=1.0),
        *[row for row in CODE2012.values() if isinstance(row, Dense)],
    ]
)

# The small network for CIFAR-10 of Zhang et al. 2017, appendix A, for 28x28. The
# constants of its normalisation and its initial values are not in the text; these are
# those of TensorFlow's CIFAR-10 tutorial, whose network it resembles.
SMALL: dict[str, Row] = dict(
    conv1=Conv(64, 5, then=("activation", "pool", "norm"), kernel_std=0.05),
    conv2=Conv(64, 5, then=("activation", "pool", "norm"), kernel_std=0.05, bias=0.1),
    fc3=Dense(384, kernel_std=0.04, bias=0.1),
    fc4=Dense(192, kernel_std=0.04, bias=0.1),
    fc5=Dense(then=(), kernel_std=1 / 192),
)

# The four-layer network of figure 1, for CIFAR-10. The paper leaves it to the 2012
# code's examples; this has the widths of their fast network. Its initial kernels keep a
# signal's size about the same from layer to layer.
FOUR_LAYERS: dict[str, Row] = dict(
    conv1=Conv(32, 5, then=("activation", "pool"), kernel_std=0.1),
    conv2=Conv(32, 5, then=("activation", "pool"), kernel_std=0.035),
    conv3=Conv(64, 5, then=("activation", "pool"), kernel_std=0.035),
    fc4=Dense(then=(), kernel_std=0.03),
)
# What both networks for CIFAR-10 have in common.
CIFAR = {"towers": 1, "standardize": True, "pool_partial": True, "dropout": 0.0}
# Normalisation over nine maps, as in TensorFlow's tutorial and the 2012 code's example.
OVER_NINE = {"norm_size": 9, "norm_k": 1.0, "norm_alpha": 0.001 / 9}

# The 2012 code's own examples for CIFAR-10 (cuda-convnet, example-layers): the fast one
# (`layers-80sec`), and the one that has four layers, as figure 1's network
# (`layers-19pct`). Pixels are not scaled, and first kernels therefore tiny.
CIFAR_80SEC: dict[str, Row] = dict(
    conv1=Conv(32, 5, then=("pool", "activation"), kernel_std=0.0001),
    conv2=Conv(32, 5, then=("activation", "average_pool")),
    conv3=Conv(64, 5, then=("activation", "average_pool")),
    fc4=Dense(64, then=("activation",), kernel_std=0.1),
    fc5=Dense(then=(), kernel_std=0.1),
)
CIFAR_19PCT: dict[str, Row] = {
    **{name: CIFAR_80SEC[name] for name in ("conv1", "conv2", "conv3")},
    "fc4": Dense(then=()),
}
# Those of section 3.3: 13 % test error without normalisation, 11 % with it, and with
# twice as many kernels in the first locally connected layer.
CIFAR_13PCT: dict[str, Row] = dict(
    conv1=Conv(64, 5, then=("activation", "pool"), kernel_std=0.0001),
    conv2=Conv(64, 5, then=("activation", "pool")),
    local3=Local(32, 3, kernel_std=0.04),
    local4=Local(32, 3, kernel_std=0.04),
    fc5=Dense(then=()),
)
CIFAR_11PCT = changed(
    CIFAR_13PCT,
    conv1={"then": ("activation", "pool", "norm")},
    conv2={"then": ("activation", "norm", "pool")},
    local3={"channels": 64},
)
EXAMPLES = {"towers": 1, "pool_partial": True, "dropout": 0.0}

# Keyword arguments of `AlexNet`, which checks them.
Arguments = dict[str, Any]

PRESETS: dict[str, Arguments] = {
    "code2012": {},
    "paper": {"layers": PAPER, "norm_alpha": 1e-4},
    "caffe": {"layers": CAFFE, "norm_across_towers": True, "norm_k": 1.0},
    "caffenet": {"layers": CAFFENET, "norm_across_towers": True, "norm_k": 1.0},
    "owt": {"layers": OWT, "towers": 1, "image_padding": 2},
    "conv6": {"layers": CONV6},
    "small": {"layers": SMALL, **CIFAR, **OVER_NINE},
    "four_layers": {"layers": FOUR_LAYERS, **CIFAR},
    # With the normalisation of the 2012 code's example, after the pooling.
    "four_layers_norm": {
        "layers": changed(
            FOUR_LAYERS,
            conv1={"then": ("activation", "pool", "norm")},
            conv2={"then": ("activation", "pool", "norm")},
        ),
        **CIFAR,
        **OVER_NINE,
    },
    "cifar_80sec": {"layers": CIFAR_80SEC, **EXAMPLES},
    "cifar_19pct": {"layers": CIFAR_19PCT, **EXAMPLES},
    "cifar_13pct": {"layers": CIFAR_13PCT, **EXAMPLES},
    "cifar_11pct": {"layers": CIFAR_11PCT, **EXAMPLES, **OVER_NINE},
}

# What the paper takes away, one thing at a time, from `code2012`.
ABLATIONS: dict[str, Arguments] = {
    # Section 3.3. The 2012 code's run 148 also left out the same-map norm.
    "no_norm": {
        "layers": changed(
            CODE2012,
            conv1={"then": ("activation", "pool")},
            conv2={"then": ("activation", "pool")},
        )
    },
    # Section 3.4, run 147.
    "pool_2x2": {"pool_window": 2, "pool_cut": True},
    # Section 3.2: half the kernels, but for the last convolution and what comes after.
    "one_tower": {
        "towers": 1,
        "layers": changed(
            changed(CODE2012, **NO_EXCHANGE),
            conv1={"channels": 48},
            conv2={"channels": 128},
            conv3={"channels": 192},
            conv4={"channels": 192},
        ),
    },
    # Not in the paper; run 150, which also widened conv2. Towers meet in the logits.
    "no_exchange": {"layers": changed(CODE2012, **NO_EXCHANGE)},
    # Section 4.1, random crops and horizontal flips: `data/loading/pipeline.py`.
    "no_crops": {},
    # Section 4.1, colours: `training/schedule.py`.
    "no_colour": {},
    # Section 4.2.
    "no_dropout": {"dropout": 0.0},
    # Section 3.1.
    "tanh": {"activation": "tanh"},
    "sigmoid": {"activation": "sigmoid"},
    # Section 7: any of the middle layers removed. Later layers move up a number.
    "no_conv4": {"layers": without(CODE2012, "conv4")},
    # conv4 is then the last convolution, and is pooled.
    "no_conv5": {
        "layers": changed(
            without(CODE2012, "conv5"), conv4={"then": ("activation", "pool")}
        )
    },
    "no_fc7": {"layers": without(CODE2012, "fc7")},
}
PRESETS |= ABLATIONS
