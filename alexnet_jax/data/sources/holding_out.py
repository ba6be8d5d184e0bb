"""Which images are held out for validation where there is no validation split, and
which classes only one split has."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from alexnet_jax.data.image_tree import LeftOut
from alexnet_jax.runtime import progress
from alexnet_jax.runtime.errors import InputError


# What is done about images of classes that only one split has.
OTHER_CLASSES = ("stop", "skip")
REASON = "of classes that only one split has"
_ADVICE = (
    "; to leave out the images of such classes, give --other_classes=skip to `prepare` "
    "(training: --config.data.other_classes=skip)"
)

# What is known of each image of a split, in the order of the images.
Labels = Mapping[str, Sequence[str]]


class Matched(NamedTuple):
    """The classes of two splits.

    Attributes:
      classes: sorted.
      kept: for each split, the places of the images that are kept.
      left_out: how many are not, by the reason.
      notes: what a user might not expect, a line each.
    """

    classes: tuple[str, ...]
    kept: dict[str, list[int]]
    left_out: LeftOut
    notes: list[str]


def match(where: str, labels: Labels, *, other_classes: str) -> Matched:
    """Match the classes of the two splits.

    Args:
      where: the input, for messages.
      labels: the class of each image of `train` and of `validation`.
      other_classes: about classes that only one of them has: `stop` refuses those that
        `train` lacks and names those that `validation` lacks; `skip` leaves them out.

    Raises:
      InputError: if `validation` has other classes.
    """
    train, validation = (set(labels[split]) for split in ("train", "validation"))
    strangers = sorted(validation - train)
    shared = bool(validation & train)
    check_strangers(where, strangers, "train", other_classes, shared=shared)
    classes = train & validation if other_classes == "skip" else train
    kept = {
        split: [place for place, name in enumerate(names) if name in classes]
        for split, names in labels.items()
    }
    dropped = sum(len(names) - len(kept[split]) for split, names in labels.items())
    return Matched(
        tuple(sorted(classes)),
        kept,
        +LeftOut({REASON: dropped}),
        lacking(where, sorted(classes), validation),
    )


def check_strangers(
    where: str,
    strangers: Sequence[str],
    train: str,
    other_classes: str,
    *,
    shared: bool,
) -> None:
    """Raise an InputError if there are strangers, classes that `train` lacks, unless
    they are skipped and there are other classes, which are `shared`."""
    if strangers and (other_classes != "skip" or not shared):
        more = f" and {len(strangers) - 5} more" if len(strangers) > 5 else ""
        raise InputError(
            f"{where} has classes that {train} lacks: {', '.join(strangers[:5])}{more}"
            f"{_ADVICE if shared else '; it has no other classes'}"
        )


def held_out(names: Sequence[bytes], fraction: float, of_class: str) -> set[int]:
    """The places of a class's images that are held out, chosen by a hash of the images'
    names, so that added images do not reshuffle the others.

    Raises:
      InputError: if the class has too few.
    """
    count = max(1, round(fraction * len(names)))
    if count >= len(names):
        raise InputError(
            f"class {of_class} has {progress.counting(len(names), 'image')}, too few "
            "to hold any out for validation; add more, or a validation folder"
        )
    order = sorted(
        range(len(names)), key=lambda place: hashlib.sha256(names[place]).digest()
    )
    return set(order[:count])


def lacking(where: str, train: Sequence[str], validation: Collection[str]) -> list[str]:
    """A line on the training classes that have no validation image, if there are any;
    `validation` are those that have."""
    found = [name for name in train if name not in validation]
    if not found:
        return []
    some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    return [
        f"{where}: {len(found)} of {len(train)} classes have no validation image "
        f"({some})"
    ]
