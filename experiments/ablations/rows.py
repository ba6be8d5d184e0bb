"""The rows that `imagenette.py` trains: what of the network or its training changes."""

from collections.abc import Sequence
from typing import Any

from alexnet_jax.nn.presets import ABLATIONS
from alexnet_jax.runs import overrides
from alexnet_jax.runtime.errors import InputError

from commands import quick


# Runs that differ in one of these are not compared.
PROTOCOL = ("set", "epochs", "dtype", "maxima", "overrides")
# The smallest network of the same topology that leaves conv5 some rows and columns:
# 99 of 112 pixels, as 224 are of 256.
CROP = 99
# The rate drops after these parts of a run.
DROPS = (2 / 3, 13 / 15)
WHOLE = "code2012"
# Rows that are no variant of a config: of which variant, with which overrides.
INITIAL = [f"--config.model.layers.conv{n}.kernel_std={{}}" for n in (3, 4, 5)]
RECIPES = {
    "cosine": ["--config.schedule.kind=cosine", "--config.schedule.warmup_epochs=1.0"],
    "smoothing": ["--config.train.label_smoothing=0.1"],
    "mixup": ["--config.data.mixup=0.2"],
    "resized_crops": ["--config.data.crop_area=0.35"],
    "average": ["--config.optimizer.average=0.999"],
    "decoupled": [
        "--config.optimizer.decoupled_decay=True",
        "--config.optimizer.weight_decay=0.005",
    ],
}
MODERN = [flag for flags in RECIPES.values() for flag in flags]
# In place of mixup and of the moving average, and one that is in none of the others.
FURTHER = {
    "cutmix": ["--config.data.cutmix=1.0"],
    "randaugment": ["--config.data.randaugment=0.3"],
    # From the first drop on a fifth of the rate, as in Izmailov et al. 2018.
    "swa": [
        "--config.schedule.swa_epochs={drop}",
        "--config.schedule.epochs=({drop},)",
        "--config.schedule.factor=0.2",
    ],
}
# Rows that are trained for longer, and for how many epochs.
LONGER = ("long", "modern_long")
LONG = 90.0
FIVE = "five_networks"
# Whose predictions are averaged: of five seeds for each of the row's.
MEMBERS = {FIVE: 5}
CHANGED = {
    # Section 5: initial kernels of conv3 to conv5 as in the paper, and the paper's
    # network with those of the 2012 code.
    "initial_0.01": (WHOLE, [text.format(0.01) for text in INITIAL]),
    "paper_initial_0.03": ("paper", [text.format(0.03) for text in INITIAL]),
    **{name: (WHOLE, flags) for name, flags in {**RECIPES, **FURTHER}.items()},
    "modern": (WHOLE, MODERN),
    "long": (WHOLE, []),
    "modern_long": (WHOLE, MODERN),
    FIVE: (WHOLE, []),
}
# A row behind an @ is trained at another rate: where outputs are not dropped, they are
# twice as many, and at the base's rate the network may not learn.
SLOW = "@0.003"
# All rows, what is worth most first: a limited time is spent on those.
BY_VALUE = (
    WHOLE,
    *("no_norm", "pool_2x2", "one_tower", "no_exchange", "no_dropout", "no_crops"),
    *("modern", *RECIPES),
    *(f"{WHOLE}{SLOW}", f"no_dropout{SLOW}"),
    *("initial_0.01", "paper", "paper_initial_0.03"),
    *("no_colour", FIVE, *FURTHER),
    *("no_conv4", "no_conv5", "no_fc7", f"tanh{SLOW}", "tanh", "sigmoid"),
    *("modern_long", "long"),
)
# Nothing of the network is changed in the second one: the recipes of later years, each
# and together, and over three times as many epochs.
LATER = (*RECIPES, *FURTHER, "modern", *LONGER)
TABLES = {
    "imagenette": tuple(row for row in BY_VALUE if row not in LATER),
    "modern": tuple(row for row in BY_VALUE if row in LATER),
}


def table_of(row: str) -> str:
    """The table that a row belongs to, at whatever rate."""
    return "modern" if name_of(row) in LATER else "imagenette"


def maxima(dtype: str, platform: str) -> str:
    """Which of several equal maxima of a pooling window have its gradient, since commit
    38ae39d: the first in half precision and on a TPU, else every one, as before."""
    return "first" if dtype == "bfloat16" or platform == "tpu" else "every"


def protocol_of(line: dict[str, Any]) -> dict[str, Any]:
    """In what a run's line may not differ from another's, to be compared with it."""
    # Lines of before have no such key.
    line = {"maxima": "every", **line}
    return {name: line[name] for name in PROTOCOL}


def name_of(row: str) -> str:
    """A row's name without its rate."""
    return row.partition("@")[0]


def flags(row: str, given: Any) -> list[str]:
    """The overrides of a row that are not its own."""
    if given.quick:
        return [f"--config.model.dtype={given.dtype}"]
    epochs = epochs_of(row, given)
    drops = ",".join(f"{part * epochs:.4g}" for part in DROPS)
    return [
        f"--config.data.path={given.data}",
        f"--config.data.crop={CROP}",
        f"--config.train.epochs={epochs}",
        "--config.schedule.kind=steps",
        f"--config.schedule.epochs=({drops})",
        # Of the last quarter of 91 epochs.
        "--config.schedule.colour_epochs=None",
        "--config.schedule.layer_rates=None",
        f"--config.model.dtype={given.dtype}",
    ]


def epochs_of(row: str, given: Any) -> float:
    """A row's epochs."""
    if given.quick:
        return 0.0
    return LONG if name_of(row) in LONGER else given.epochs


def config_of(row: str, given: Any, changes: Sequence[str]) -> Any:
    """The config of a row, as `alexnet_jax.main` would read it.

    Args:
      row: its name, and its rate if it has one.
      given: the arguments of the command.
      changes: overrides of every row, which win over its own.

    Raises:
      InputError: if there is no such row.
    """
    name, _, rate = row.partition("@")
    variant, own = CHANGED.get(name, (name, []))
    if variant not in (WHOLE, "paper", *ABLATIONS):
        raise InputError(f"no row {row}; choose from {', '.join(BY_VALUE)}")
    # The epoch of the first drop.
    drop = f"{DROPS[0] * epochs_of(row, given):.4g}"
    arguments = [
        *(quick(variant) if given.quick else ()),
        *flags(row, given),
        *(text.format(drop=drop) for text in own),
        *([f"--config.schedule.learning_rate={rate}"] if rate else []),
        *changes,
    ]
    # A list that is given twice would be one of both.
    last = {text.partition("=")[0]: text for text in arguments}
    config = "quickstart" if given.quick else "imagenet"
    return overrides.changed_config(f"{config}:{variant}", list(last.values()))
