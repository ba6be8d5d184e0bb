"""The loss of a batch as one device computes it, from its own examples."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from alexnet_jax.distributed.mesh import DATA
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.training import losses
from alexnet_jax.training.operations import operate
from alexnet_jax.training.preprocess import mix_pairs, paste_pairs, shift_colours


Batch = dict[str, Array]


def local_loss(
    model: AlexNet,
    label_smoothing: float,
    params: PyTree,
    batch: Batch,
    mean: Array,
    coefficient: Array,
    key: Array,
) -> tuple[Array, dict[str, Array]]:
    """The loss of the whole batch, and the sums behind it, from one device's examples.

    To be called on every device of the mesh, by `mesh.sharded`.
    """
    # The transpose of this cast is the sum of the gradients over the data axis.
    params = jax.tree.map(lambda array: lax.pcast(array, DATA, to="varying"), params)
    images, weight = batch["image"], batch.get("weight")
    if "operation" in batch:
        images = operate(images, batch["operation"], batch["strength"])
    images = shift_colours(images, mean, batch["colour_shift"], coefficient)
    if "patch" in batch:
        images = paste_pairs(images, batch["patch"])
    elif weight is not None:
        images = mix_pairs(images, weight)
    labels = batch["label"]
    first = lax.axis_index(DATA) * labels.shape[0]
    examples = first + jnp.arange(labels.shape[0], dtype=jnp.int32)
    logits: PyTree = model.apply(
        {"params": params}, images, dropout_key=key, examples=examples
    )
    log_probabilities = jax.nn.log_softmax(logits)
    mask = jnp.ones_like(labels, dtype=jnp.bool_)
    sums = losses.sums(
        log_probabilities, labels, mask, weight=weight, smoothing=label_smoothing
    )
    loss = lax.pmean(sums["loss"] / labels.shape[0], DATA)
    return loss, lax.psum(sums, DATA)
