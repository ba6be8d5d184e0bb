"""Which pixels of an image a unit of the network sees."""

from collections.abc import Mapping
from typing import NamedTuple

from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.layers import FEATURES, POOLS, Conv
from alexnet_jax.nn.lrn import SAME_MAP_SIZE


class Field(NamedTuple):
    """The receptive fields of a layer's units, along one side of the image.

    Unit i sees the pixels from `start + i * step` on, `size` of them; those before the
    image's first pixel and behind its last one are padding.
    """

    start: int
    size: int
    step: int

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of what a unit sees, in pixels; bottom and right
        are the first ones outside. Parts of it may lie outside the image."""
        top, left = (self.start + self.step * place for place in (row, column))
        return top, left, top + self.size, left + self.size

    def _widened(self, before: int, window: int, stride: int = 1) -> "Field":
        """Behind windows that begin so many units before their own place."""
        return Field(
            self.start - before * self.step,
            self.size + (window - 1) * self.step,
            self.step * stride,
        )


def receptive_fields(model: AlexNet) -> Mapping[str, Field | None]:
    """The receptive field of every feature, by its name in `model.features`.

    None for those that see the whole image: the fully connected layers. Standardising
    an image (`model.standardize`) lets every unit see all of it through its mean and
    variance; this is left out.
    """
    found: dict[str, Field | None] = {}
    field = Field(-model.image_padding, 1, 1)
    for number, (name, row) in enumerate(model.layers.items(), start=1):
        if not isinstance(row, Conv):
            found |= {f"{name}.linear": None, name: None}
            continue
        before = row.kernel // 2 if row.stride == 1 else 0
        field = found[f"{name}.linear"] = field._widened(before, row.kernel, row.stride)
        for step in row.then:
            if step == "same_map_norm":
                field = field._widened(SAME_MAP_SIZE // 2, SAME_MAP_SIZE)
            elif step in POOLS:
                field = field._widened(0, model.pool_window, model.pool_stride)
            if step == "activation":
                found[name] = field
            elif step in FEATURES:
                found[f"{FEATURES[step]}{number}"] = field
    return {name: found[name] for name in model.features}
