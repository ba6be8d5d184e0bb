"""Batches cut on the devices, from a split that every device holds whole.

The host sends which examples a batch has, and what was drawn for them: a few bytes an
example. Each device cuts its own examples out of its own copy, so a process may hold a
split whatever the others do. The images come out as the host would have sent them, bit
for bit, and so the step that follows is the same program.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Int32, UInt8

from alexnet_jax.data.loading.later_recipes import OF_STEP
from alexnet_jax.distributed import mesh as meshes
from alexnet_jax.distributed import placement
from alexnet_jax.distributed.mesh import EVERYWHERE, EXAMPLES
from alexnet_jax.training.step import Batch


class HeldSplit(NamedTuple):
    """All examples of a split, whole on every device of a process.

    There may be more rows than examples: padding, at the end.
    """

    image: UInt8[Array, "rows size size 3"]
    label: Int32[Array, "rows"]


# From what the host sends of a batch, on the devices, to the batch.
Cut = Callable[[Batch], Batch]


def cut_crops(
    images: UInt8[Array, "rows size size 3"],
    index: Int[Array, "count"],
    row: Int[Array, "count"],
    column: Int[Array, "count"],
    flipped: Bool[Array, "count"],
    *,
    crop: int,
) -> UInt8[Array, "count crop crop 3"]:
    """A crop of each of some images, at a place, flipped left to right or not.

    As `data.loading.augment.view` on the host.
    """

    def cut(index: Array, row: Array, column: Array) -> Array:
        start = (index, row, column, jnp.zeros_like(index))
        return lax.dynamic_slice(images, start, (1, crop, crop, 3))[0]

    cuts = jax.vmap(cut)(index, row, column)
    return jnp.where(flipped[:, None, None, None], cuts[:, :, ::-1], cuts)


def cut_boxes(
    images: UInt8[Array, "rows size size 3"],
    index: Int[Array, "count"],
    box: Int32[Array, "count 4"],
    flipped: Bool[Array, "count"],
    *,
    crop: int,
) -> UInt8[Array, "count crop crop 3"]:
    """A box of each of some images, resized to a crop, flipped left to right or not.

    As `data.loading.augment.put_resized` on the host, to the bit.
    """

    def samples(start: Array, length: Array) -> tuple[Array, Array, Array]:
        length = length.astype(jnp.uint32)
        centres = (2 * jnp.arange(crop, dtype=jnp.uint32) + 1) * (128 * length)
        places = jnp.clip(centres // crop, 128, 256 * length - 128) - 128
        first = places >> 8
        second = jnp.minimum(first + 1, length - 1)
        return (
            start + first.astype(jnp.int32),
            start + second.astype(jnp.int32),
            places & 255,
        )

    def cut(index: Array, box: Array) -> Array:
        first, second, weight = samples(box[0], box[2])
        weight = weight[:, None, None]
        above, below = (
            images[index, rows].astype(jnp.uint32) for rows in (first, second)
        )
        rows = (256 - weight) * above + weight * below
        first, second, weight = samples(box[1], box[3])
        weight = weight[None, :, None]
        pixels = (256 - weight) * rows[:, first] + weight * rows[:, second]
        return ((pixels + 2**15) >> 16).astype(jnp.uint8)

    cuts = jax.vmap(cut)(index, box)
    return jnp.where(flipped[:, None, None, None], cuts[:, :, ::-1], cuts)


def make_train_cut(held: HeldSplit, mesh: Mesh, *, crop: int) -> Cut:
    """The function from what is drawn for some training examples (see
    `data.loading.batching.train_draws`) to the batch that a training step takes."""

    def cut(held: HeldSplit, batch: Batch) -> Batch:
        names = ("box",) if "box" in batch else ("row", "column")
        places = [batch[name] for name in ("index", *names, "flipped")]
        cut = cut_boxes if "box" in batch else cut_crops
        return {
            "image": cut(held.image, *places, crop=crop),
            "label": held.label[batch["index"]],
            **{name: batch[name] for name in OF_STEP if name in batch},
        }

    return _on_own_devices(cut, held, mesh)


def make_evaluation_cut(held: HeldSplit, mesh: Mesh) -> Cut:
    """The function from `index` and `mask` of some examples to the batch that an
    evaluation step takes; padding is an image of zeros, as from the host."""

    def cut(held: HeldSplit, batch: Batch) -> Batch:
        mask = batch["mask"]
        index = jnp.where(mask, batch["index"], 0)
        image = jnp.where(mask[:, None, None, None], held.image[index], 0)
        label = jnp.where(mask, held.label[index], 0)
        return {"image": image, "label": label, "mask": mask}

    return _on_own_devices(cut, held, mesh)


def _on_own_devices(
    cut: Callable[[HeldSplit, Batch], Batch], held: HeldSplit, mesh: Mesh
) -> Cut:
    """Run a function of one device's examples on every device of this process.

    A program of this process alone: what it computes needs nothing of the others, who
    may read their images from the host.
    """
    own = meshes.own_mesh(mesh)
    program = jax.jit(
        meshes.sharded(cut, own, in_specs=(EVERYWHERE, EXAMPLES), out_specs=EXAMPLES)
    )

    def run(batch: Batch) -> Batch:
        return placement.moved(program(held, placement.moved(batch, own)), mesh)

    return run
