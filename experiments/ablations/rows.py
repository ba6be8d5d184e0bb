"""The rows that `imagenette.py` trains: what of the network or its training changes."""

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
LONG = 90.0
CHANGED = {
    # Section 5: initial kernels of conv3 to conv5 as in the paper, and the paper's
    # network with those of the 2012 code.
    "initial_0.01": (WHOLE, [text.format(0.01) for text in INITIAL]),
    "paper_initial_0.03": ("paper", [text.format(0.03) for text in INITIAL]),
    **{name: (WHOLE, flags) for name, flags in RECIPES.items()},
    "modern": (WHOLE, MODERN),
    "long": (WHOLE, []),
    "modern_long": (WHOLE, MODERN),
}
# A row behind an @ is trained at another rate: where outputs are not dropped, they are
# twice as many, and at the base's rate the network may not learn.
SLOW = "@0.003"
TABLES = {
    # In the order of their weight in the paper.
    "imagenette": (
        WHOLE,
        *("no_norm", "pool_2x2", "one_tower", "no_exchange", "no_dropout", "no_crops"),
        *(f"{WHOLE}{SLOW}", f"no_dropout{SLOW}"),
        *("no_colour", "tanh", "no_conv4", "no_conv5", "no_fc7", f"tanh{SLOW}"),
        *("initial_0.01", "paper", "paper_initial_0.03", "sigmoid"),
    ),
    # Nothing of the network changed: the recipes of later years, each and together, and
    # over three times as many epochs.
    "modern": ("modern", *RECIPES, "long", "modern_long"),
}
ROWS = tuple(row for rows in TABLES.values() for row in rows)
