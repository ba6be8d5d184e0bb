"""The strongest images of each unit of a layer, kept while batches go by."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from alexnet_jax.analysis.unit_numbers import chosen_units
from alexnet_jax.inference.extraction_input import Row
from alexnet_jax.inference.trained import TrainedNetwork
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.nn.receptive_fields import Field, receptive_fields
from alexnet_jax.runtime import progress


# Units whose patches are kept to be drawn, and the side of a patch, in pixels.
MOST_DRAWN, PATCH = 256, 56
# Around the image.
GREY = 128


@dataclasses.dataclass(eq=False)
class BestImages:
    """For every unit its strongest images, the strongest first, each counted once.

    Attributes:
      layer: out of `model.features`.
      units: the units' numbers, over all towers.
      width: how many units the layer has.
      towers: over which they are divided; the last layer's are sums over all.
      count: how many images there were; with fewer than the places the last values are
        NaN.
      refused: how many could not be read.
      values: of the unit, at its strongest place in the image.
      places: row and column of that place in the layer; 0 for a fully connected layer.
      boxes: top, left, bottom and right of what the unit sees there, in pixels of the
        stored image, cut at the border of the crop.
      images: the image's number, and `names` its name; -1 and "" where there is none.
      patches: what lies in the boxes, made small; of the first units alone.
    """

    layer: str
    units: Int[np.ndarray, " units"]
    width: int
    towers: int
    count: int
    refused: int
    values: Float[np.ndarray, "units top"]
    places: Int[np.ndarray, "units top 2"]
    boxes: Int[np.ndarray, "units top 4"]
    images: Int[np.ndarray, "units top"]
    names: np.ndarray
    patches: UInt8[np.ndarray, "drawn top side side 3"]

    def about(self) -> dict[str, object]:
        """What was found, in numbers, as JSON."""
        drawn = len(self.patches)
        return {
            "layer": self.layer,
            "images": self.count,
            "unreadable": self.refused,
            "units": len(self.units),
            "units_drawn": drawn,
            "units_never_above_zero": int((~(self.values[:, 0] > 0)).sum()),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by name, for a file."""
        return {
            "unit": self.units,
            "value": self.values,
            "place": self.places,
            "box": self.boxes,
            "image": self.images,
            "name": self.names.astype(str),
        }


def towers_of(model: AlexNet, layer: str) -> int:
    """Over how many towers a layer's units are divided."""
    return 1 if layer == [*model.layers][-1] else model.towers


class BestSoFar:
    """Takes in batches and keeps each unit's strongest images, in `best`.

    Args:
      network: whose layer it is.
      layer: out of `model.features`.
      shape: of the layer's values, with an axis for the batch.
      units: which, as `0,7,32-63`; None for all.
      top: how many images of each.

    Raises:
      InputError: if a unit is unknown.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        layer: str,
        shape: tuple[int, ...],
        units: str | None,
        top: int,
    ) -> None:
        model, data = network.model, network.data
        crop = data.crop
        self.field = receptive_fields(model)[layer] or Field(0, crop, 1)
        self.crop, self.border = crop, (data.size - crop) // 2
        self.columns = shape[2] if len(shape) == 4 else 1
        chosen = chosen_units(units, shape[-1])
        places = (len(chosen), top)
        self.seen = 0
        self.best = BestImages(
            layer=layer,
            units=chosen,
            width=shape[-1],
            towers=towers_of(model, layer),
            count=0,
            refused=0,
            values=np.full(places, np.nan, np.float32),
            places=np.zeros((*places, 2), np.int32),
            boxes=np.zeros((*places, 4), np.int32),
            images=np.full(places, -1, np.int64),
            names=np.full(places, "", object),
            patches=np.full(
                (min(len(chosen), MOST_DRAWN), top, PATCH, PATCH, 3), 255, np.uint8
            ),
        )

    def add(
        self,
        rows: Sequence[Row],
        values: Float[np.ndarray, "batch units"],
        places: Int[np.ndarray, "batch units"],
    ) -> None:
        """Take in a batch: images, each unit's value in them, and its place."""
        best, top = self.best, self.best.values.shape[1]
        readable = [place for place, row in enumerate(rows) if row.image is not None]
        for row in rows:
            if row.error is not None:
                best.refused += 1
                progress.say(f"error: {row.error}")
        offered = np.where(np.isnan(best.values), -np.inf, best.values)
        offered = np.concatenate([offered, values[readable].T], axis=1)
        # Of equal values the first image stays.
        order = np.argsort(-offered, axis=1, kind="stable")[:, :top]
        before = {
            name: getattr(best, name).copy()
            for name in ("values", "places", "boxes", "images", "names", "patches")
        }
        for unit, slot in np.argwhere(order != np.arange(top)).tolist():
            taken = int(order[unit, slot])
            if taken < top:
                self._move(before, unit, slot, taken)
            else:
                place = readable[taken - top]
                spot = divmod(int(places[place, unit]), self.columns)
                self._put(unit, slot, rows[place], self.seen + place, spot)
                best.values[unit, slot] = values[place, unit]
        self.seen += len(rows)

    def _move(
        self, before: dict[str, np.ndarray], unit: int, slot: int, taken: int
    ) -> None:
        for name, array in before.items():
            if unit < len(array):
                getattr(self.best, name)[unit, slot] = array[unit, taken]

    def _put(
        self, unit: int, slot: int, row: Row, number: int, spot: tuple[int, int]
    ) -> None:
        best, border, limit = self.best, self.border, self.border + self.crop
        whole = [edge + border for edge in self.field.box(*spot)]
        best.places[unit, slot] = spot
        best.boxes[unit, slot] = np.clip(whole, border, limit)
        best.images[unit, slot], best.names[unit, slot] = number, row.name
        if unit < len(best.patches):
            assert row.image is not None
            box = best.boxes[unit, slot].tolist()
            best.patches[unit, slot] = _patch(row.image, box)


def _patch(
    image: UInt8[np.ndarray, "size size 3"], box: Sequence[int]
) -> UInt8[np.ndarray, "side side 3"]:
    """What lies in a box, its longer side as long as the patch; grey beside it."""
    top, left, bottom, right = box
    inside = image[top:bottom, left:right]
    longest = max(inside.shape[:2])
    # Small fields are shown pixel by pixel.
    small = longest < PATCH
    how = Image.Resampling.NEAREST if small else Image.Resampling.BOX
    height, width = (max(1, PATCH * side // longest) for side in inside.shape[:2])
    patch = np.full((PATCH, PATCH, 3), GREY, np.uint8)
    y, x = (PATCH - height) // 2, (PATCH - width) // 2
    patch[y : y + height, x : x + width] = np.asarray(
        Image.fromarray(inside).resize((width, height), how)
    )
    return patch
