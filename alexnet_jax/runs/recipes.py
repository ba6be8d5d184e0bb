"""What a recipe sets of a config that leaves it open (`train.recipe`)."""

from typing import Any

from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs.config import Sections, section
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError, check_choice
from alexnet_jax.training.recipes import RECIPES


Settings = dict[str, dict[str, object]]


def check(config: Sections) -> None:
    """Raise an InputError if a config's recipe is unknown or misses something."""
    training = section(config, "train")
    recipe = training.get("recipe")
    if recipe is None:
        return
    check_choice("train.recipe", recipe, RECIPES)
    if training.get("init_from") is None:
        raise InputError(
            f"train.recipe={recipe} is for a trained network, and train.init_from is "
            "not set; give --config.train.init_from=RUN, a work directory or the name "
            "of imported weights, or train a new network with --config=folder"
        )


def completed(config: Sections, images: int) -> tuple[Settings, str]:
    """A config with what its recipe sets for so many training images.

    What the config itself sets is left as it is.

    Returns:
      The config, and what the recipe has set and why, in words; none without a recipe.
    """
    settings = {name: dict(keys) for name, keys in config.items()}
    name = settings.get("train", {}).get("recipe")
    if name is None:
        return settings, ""
    *_, head = AlexNet(num_classes=1, **section(config, "model")).layers
    training = section(config, "train")
    given = {key: training.get(key) for key in ("batch_size", "epochs", "steps")}
    recipe = RECIPES[str(name)](images, head, **given)
    chosen = []
    for path, value in recipe.values.items():
        place, key = _place(settings, path)
        is_length = path == "train.epochs" and place.get("steps") is not None
        if place.get(key) is None and not is_length:
            place[key] = value
            chosen.append(f"{path}={value}")
    what = f"train.recipe={name}, for {progress.counting(images, 'training image')}: "
    if not chosen:
        return settings, f"{what}all that it would set is set already"
    return settings, f"{what}{', '.join(chosen)} ({recipe.why})"


def _place(settings: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The mapping that a dotted key lies in, and its last part; made where missing."""
    *folders, key = path.split(".")
    place = settings
    for folder in folders:
        inner: dict[str, Any] = dict(place.get(folder) or {})
        place[folder] = inner
        place = inner
    return place, key
