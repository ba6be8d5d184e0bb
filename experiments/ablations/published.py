"""Points of top-1 and top-5 error by which the network is worse, on ImageNet with ten
crops: in the paper's text, and by the logs of the 2012 code."""

PUBLISHED = {
    "no_norm": {"paper": (1.4, 1.2), "logs": (1.37, 1.15)},
    "pool_2x2": {"paper": (0.4, 0.3), "logs": (0.39, 0.30)},
    "one_tower": {"paper": (1.7, 1.2), "logs": (1.70, 1.23)},
    "no_exchange": {"logs": (1.16, 1.12)},
    "five_networks": {"paper": (-2.6, -1.8)},
    "no_colour": {"paper": "over 1 top-1"},
    "no_crops": {"paper": "substantial overfitting"},
    "no_dropout": {"paper": "substantial overfitting"},
    "no_conv4": {"paper": "about 2 top-1"},
    "no_conv5": {"paper": "about 2 top-1"},
    "no_fc7": {"paper": "about 2 top-1"},
}
