"""What recipes of later years draw: mixed pairs of images, and operations on them.

Off by default. The training step applies what is drawn here, on the device, so that it
makes no difference whether images come from the host or lie on the devices.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from alexnet_jax.data.loading import augment
from alexnet_jax.data.loading.augment import Draws
from alexnet_jax.runtime.errors import InputError, check_number
from alexnet_jax.runtime.progress import counting


# Apart from what an ordinary run draws.
_STREAM = 2019
# Those of `data.randaugment`, of which each image goes through two; what they do, and
# how strongly, is in `training/operations.py`. Of the fourteen of Cubuk et al. 2020 two
# are missing, equalize and sharpness.
OPERATIONS = (
    *("identity", "autocontrast", "brightness", "contrast", "saturation", "posterize"),
    *("solarize", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)
OF_EACH_IMAGE = 2
# The keys of the section `data` that `drawn` takes.
OPTIONS = ("mixup", "cutmix", "randaugment")
# What is drawn that the training step itself takes, by its name in a batch.
OF_STEP = ("colour_shift", "weight", "patch", "operation", "strength")


class Recipes(NamedTuple):
    """The random choices for examples in a row, all between 0 and 1.

    Attributes:
      centres: of `patches`.
      operations: which they are, for `operations`.
      signs: whether their strengths are negative.
    """

    centres: Float[np.ndarray, "count 2"]
    operations: Float[np.ndarray, "count operations"]
    signs: Float[np.ndarray, "count operations"]


def check(
    *,
    crops: bool,
    crop_area: float | None,
    mixup: float,
    cutmix: float,
    randaugment: float,
) -> None:
    """Raise an InputError if an option of the `data` section is out of range."""
    if crop_area is not None and not 0 < crop_area <= 1:
        raise InputError(f"data.crop_area={crop_area} must lie above 0 and up to 1")
    if crop_area is not None and not crops:
        raise InputError(
            "data.crop_area is of random crops, and data.crops is False; leave one of "
            "them out"
        )
    check_number("data.mixup", mixup)
    check_number("data.cutmix", cutmix)
    if mixup and cutmix:
        raise InputError(
            f"data.mixup={mixup} and data.cutmix={cutmix} both pair the images of a "
            "batch; leave one of them out"
        )
    check_number("data.randaugment", randaugment)
    if randaugment > 1:
        raise InputError(
            f"data.randaugment={randaugment} must lie from 0 to 1, the part of each "
            "operation's greatest strength"
        )


def check_pairs(batch_size: int, devices: int, what: str) -> None:
    """Raise an InputError if a batch whose images are mixed in pairs, which `what`
    names, gives each of so many devices an odd number."""
    if batch_size // devices % 2:
        raise InputError(
            f"data.mixup and data.cutmix mix pairs of images, and {what}={batch_size} "
            f"on {counting(devices, 'device')} gives each an odd number; choose a "
            "multiple of twice the number of devices"
        )


def drawn(
    seed: int,
    start: int,
    draws: Draws,
    *,
    crop: int = 0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    randaugment: float = 0.0,
) -> dict[str, np.ndarray]:
    """What decides the recipes of positions from `start` on, whose `draws` are those of
    `augment.draw`; for the options see `Pipeline`.

    Returns:
      With `mixup`, each example's own `weight` (float32); with `cutmix` that and its
      `patch` (int32, count x 4: top, left, height, width, in crops of `crop`). With
      `randaugment`, `operation` (int32) and `strength` (float32), both count x 2.
    """
    found: dict[str, np.ndarray] = {}
    if mixup:
        found["weight"] = augment.weights(draws.mixing, alpha=mixup)
    if not (cutmix or randaugment):
        return found
    recipes = draw(seed, start, len(draws.mixing))
    if cutmix:
        found["patch"], found["weight"] = patches(
            recipes.centres, augment.weights(draws.mixing, alpha=cutmix), crop=crop
        )
    if randaugment:
        found["operation"], found["strength"] = operations(
            recipes, strength=randaugment
        )
    return found


def draw(seed: int, start: int, count: int) -> Recipes:
    """The draws of `count` positions, from `start` on, in the stream of all epochs."""
    uniform = augment.uniform_of(augment.words_at(seed, _STREAM, start, count))
    return Recipes(
        centres=uniform[:, :2],
        operations=uniform[:, 2 : 2 + OF_EACH_IMAGE],
        signs=uniform[:, 2 + OF_EACH_IMAGE : 2 + 2 * OF_EACH_IMAGE],
    )


def patches(
    centres: Float[np.ndarray, "count 2"],
    weight: Float[np.ndarray, "count"],
    *,
    crop: int,
) -> tuple[Int32[np.ndarray, "count 4"], Float[np.ndarray, "count"]]:
    """The patch of each crop that its partner's pixels replace (CutMix, Yun et al.
    2019), the same for both of a pair: top, left, height and width, in pixels; and the
    part of the crop that stays its own.

    Args:
      centres: what decides the places of patches; that of a pair's first counts.
      weight: of `weights`: the fraction that would stay if the patch lay wholly inside.
      crop: side of the crops.
    """
    pairs = np.repeat(centres[::2], 2, axis=0)[: len(centres)]
    middles = np.floor(pairs * crop)
    side = np.floor(crop * np.sqrt(1 - weight.astype(np.float64)))[:, None]
    start = np.clip(middles - np.floor(side / 2), 0, crop)
    end = np.clip(middles - np.floor(side / 2) + side, 0, crop)
    own = 1 - (end - start).prod(axis=1) / crop**2
    patch = np.concatenate([start, end - start], axis=1).astype(np.int32)
    return patch, own.astype(np.float32)


def operations(
    recipes: Recipes, *, strength: float
) -> tuple[
    Int32[np.ndarray, "count operations"], Float[np.ndarray, "count operations"]
]:
    """Which of `OPERATIONS` an image goes through, by their places there, and how
    strongly: a part of each one's greatest strength, positive or negative."""
    which = np.floor(recipes.operations * len(OPERATIONS)).astype(np.int32)
    signed = np.where(recipes.signs < 0.5, -strength, strength)
    return which, signed.astype(np.float32)
