"""Makes whole batches on the host; all threads together fill each batch in place."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Integer

from alexnet_jax.data.dataset import Source
from alexnet_jax.data.loading import augment, later_recipes
from alexnet_jax.data.loading.order import examples_at
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.runtime.errors import DataStalled


HostBatch = dict[str, np.ndarray]

# The most examples a thread makes before it takes others: enough that handing them out
# costs nothing. Fewer where some threads would otherwise get none.
EXAMPLES_AT_ONCE = 16


def train_draws(
    number: int,
    indices: Integer[np.ndarray, "count"],
    *,
    border: int,
    crops: bool,
    flip: bool,
    statistics: Statistics,
    seed: int,
    crop_area: float | None = None,
    size: int = 0,
    **options: Any,
) -> HostBatch:
    """What decides the training batch of the examples at `indices`, but for the images.

    Crops, flips and colour shifts are drawn for its positions in the stream of
    examples: batch `number` of this many examples starts at `number * count`. `border`
    is a crop's largest row and column, `size` the stored images' side; for the other
    ones, those of `later_recipes.drawn` among them, see `Pipeline`.

    Returns:
      `index`, `row` and `column` (int32), `flipped` (bool), one an example, and
      `colour_shift` (float32, count x 3). With a `crop_area`, `box` (int32, count x 4:
      top, left, height, width, in images of `size`) in place of `row` and `column`.
      And what `later_recipes.drawn` gives.
    """
    count = len(indices)
    draws = augment.draw(seed, number * count, count, border=border)
    centre = np.full(count, border // 2)
    shifts = augment.colour_shifts(
        draws.normals,
        deviations=statistics.deviations,
        directions=statistics.directions,
    )
    places = {
        "row": (draws.rows if crops else centre).astype(np.int32),
        "column": (draws.columns if crops else centre).astype(np.int32),
    }
    if crop_area is not None:
        places = {"box": augment.boxes(draws.uniforms, size=size, area=crop_area)}
    return {
        "index": indices.astype(np.int32),
        **places,
        "flipped": draws.flipped & flip,
        "colour_shift": shifts,
        **later_recipes.drawn(seed, number * count, draws, **options),
    }


def train_batch(
    number: int,
    indices: Integer[np.ndarray, "count"],
    *,
    draws: Callable[[int, np.ndarray], HostBatch],
    source: Source,
    crop: int,
    threads: int,
    timeout: float,
) -> HostBatch:
    """The training batch of the examples at `indices` of the source.

    `draws` is `train_draws` with its options, and `number` the batch's; for the other
    options see `Pipeline`.

    Returns:
      `image` (uint8, count x crop x crop x 3), `label` (int32), and what is drawn for
      the step itself (`later_recipes.OF_STEP`).

    Raises:
      DataStalled: if the batch takes longer than `timeout`.
    """
    count = len(indices)
    drawn = draws(number, indices)
    boxes = drawn.get("box")
    if boxes is None:
        rows, columns = drawn["row"].tolist(), drawn["column"].tolist()
    else:
        rows = columns = []
    flipped = drawn["flipped"].tolist()
    images = np.empty((count, crop, crop, 3), np.uint8)
    labels = np.empty(count, np.int32)

    def make(place: int) -> None:
        example = source[int(indices[place])]
        image, labels[place] = example["image"], example["label"]
        target, mirrored = images[place], flipped[place]
        if boxes is None:
            augment.put(target, image, rows[place], columns[place], mirrored)
        else:
            augment.put_resized(target, image, boxes[place], mirrored)

    _in_parallel(make, source, indices, threads, timeout)
    of_step = {name: drawn[name] for name in later_recipes.OF_STEP if name in drawn}
    return {"image": images, "label": labels, **of_step}


def evaluation_places(
    indices: Integer[np.ndarray, "count"], *, examples: int
) -> HostBatch:
    """Which examples an evaluation batch has: `index` (int32) and `mask`, which is
    false for padding, past the last of so many examples."""
    return {"index": indices.astype(np.int32), "mask": indices < examples}


def evaluation_batch(
    indices: Integer[np.ndarray, "count"],
    *,
    source: Source,
    size: int,
    threads: int,
    timeout: float,
) -> HostBatch:
    """The batch of these examples, uncropped; indices past the end are padding.

    Returns:
      `image` (uint8, count x size x size x 3), `label` (int32) and `mask` (false for
      padding).

    Raises:
      DataStalled: if the batch takes longer than `timeout` seconds.
    """
    count = len(indices)
    images = np.zeros((count, size, size, 3), np.uint8)
    labels = np.zeros(count, np.int32)

    def make(place: int) -> None:
        if indices[place] < len(source):
            example = source[int(indices[place])]
            images[place], labels[place] = example["image"], example["label"]

    _in_parallel(make, source, indices, threads, timeout)
    return {"image": images, "label": labels, "mask": indices < len(source)}


def train_slice(
    number: int,
    *,
    make: Callable[[int, np.ndarray], HostBatch],
    count: int,
    examples: int,
    order_seed: int,
) -> HostBatch:
    """Slice `number` of all batches, of `count` examples."""
    start = number * count
    indices = examples_at(start, count, examples=examples, seed=order_seed)
    return make(number, indices)


def evaluation_slice(
    number: int, *, make: Callable[[np.ndarray], HostBatch], count: int
) -> HostBatch:
    """Slice `number` of all batches of places, of `count` places."""
    return make(np.arange(number * count, (number + 1) * count))


def _in_parallel(
    make: Callable[[int], None],
    source: Source,
    indices: Integer[np.ndarray, "count"],
    threads: int,
    timeout: float,
) -> None:
    """Call a function with every place in a batch, in this process's threads.

    Raises:
      DataStalled: after `timeout` seconds, naming what is being read.
    """
    # Why a second pool inside Grain's threads: Grain's way, a Python call for each
    # example and a stack of the results, made 2,500 images a second where this pool,
    # filling a batch in place, made 3,200 to 3,500 (`experiments/benchmarks/
    # input_pipeline`).
    count = len(indices)
    at_once = max(1, min(EXAMPLES_AT_ONCE, count // threads))
    in_progress: dict[int, int] = {}

    def some(start: int) -> None:
        for place in range(start, min(start + at_once, count)):
            in_progress[start] = int(indices[place])
            make(place)
        del in_progress[start]

    try:
        list(_threads(threads).map(some, range(0, count, at_once), timeout=timeout))
    except TimeoutError as error:
        stuck = [source.where(index) for index in sorted(in_progress.values())]
        what = "; ".join(stuck[:3]) or "nothing yet: all threads are taken"
        raise DataStalled(
            f"no batch within data.timeout={timeout:g} s; being read: {what}; check "
            "the disk, and give the same command again"
        ) from error


# Cached: a pool for each batch would start its threads again.
@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "examples")
