"""Named networks: values for several sections of a config, merged by `get_config`."""

from typing import Any


# The network that gave the published digits is what `AlexNet`, `momentum_sgd` and
# `make_schedule` do by default; its values are spelled out where others differ.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # Run 145 of the 2012 code.
    "code2012": {
        "model": {
            "norm_before_relu": ("conv1",),
            "norm_alpha": 2e-5,
            "norm_k": 2.0,
            "same_map_norms": ("conv2",),
            "kernel_std": (0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01),
        },
        "optimizer": {"bias_rate": 2.0, "bias_weight_decay": 0.0},
        "schedule": {"bias_drops": 1},
    },
    # The paper's text to the letter.
    "paper": {
        "model": {
            "norm_before_relu": (),
            "norm_alpha": 1e-4,
            "norm_k": 2.0,
            "same_map_norms": (),
            "kernel_std": (0.01,) * 8,
        },
        "optimizer": {"bias_rate": 1.0, "bias_weight_decay": 0.0005},
        "schedule": {"bias_drops": 3},
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
        "optimizer": {"bias_rate": 1.0, "weight_decay": 0.0},
        "schedule": {"bias_drops": 3},
    },
}


def preset(name: str) -> dict[str, dict[str, Any]]:
    """A copy of a preset's sections.

    Raises:
      ValueError: if there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"no variant {name!r}; choose from {', '.join(PRESETS)}")
    return {section: dict(values) for section, values in PRESETS[name].items()}
