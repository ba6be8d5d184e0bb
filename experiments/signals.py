"""The size of signal and gradient in each layer of a network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data import statistics
from alexnet_jax.nn.alexnet import AlexNet
from alexnet_jax.runs.setup import Setup
from alexnet_jax.training import losses


EXAMPLES = 512


def initial_signals(setup: Setup) -> list[dict[str, Any]]:
    """The sizes before the first step, for the centres of some training images.

    Args:
      setup: of an AlexNet and a data set whose statistics are known.
    """
    model, crop, dataset = setup.model, setup.pipeline.crop, setup.pipeline.dataset
    assert isinstance(model, AlexNet) and dataset.statistics is not None
    source = dataset.splits["train"]
    order = np.random.default_rng(0).permutation(len(source))[:EXAMPLES]
    examples = [source[int(index)] for index in order]
    stored = np.stack([example["image"] for example in examples])
    mean = statistics.mean_crop(dataset.statistics, crop)
    images = statistics.centre(stored, crop).astype(np.float32) - mean
    params = model.init(jax.random.key(0), images[:1])["params"]
    labels = np.array([example["label"] for example in examples], np.int32)
    return signals(model, params, images, labels)


def signals(
    model: AlexNet, params: Any, images: np.ndarray, labels: np.ndarray
) -> list[dict[str, Any]]:
    """Sizes in each layer, for a batch without dropout.

    Args:
      model: the network, without a tower axis.
      params: its parameters.
      images: as the network takes them.
      labels: of the images.

    Returns:
      For each layer its name; `signal`, how much its output before the non-linearity
      varies between images (the root of the mean variance over images);
      `constant`, the root mean square of its mean over images; and `gradient`, the
      norm of the loss's gradient by its kernel over the kernel's norm.
    """
    *hidden, last = model.layers
    names = [*(f"{name}.linear" for name in hidden), last]

    # Images are an argument, not a constant that the compiler would compute with.
    def loss(params: Any, images: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs: Any = model.apply({"params": params}, images, layers=names)
        logits, kept = outputs
        mask = jnp.ones(len(labels), jnp.bool_)
        sums = losses.sums(jax.nn.log_softmax(logits), jnp.asarray(labels), mask)
        return sums["loss"] / len(labels), kept

    gradients, kept = jax.jit(jax.grad(loss, has_aux=True))(params, images)
    sizes = []
    for layer, name in zip(model.layers, names, strict=True):
        kernel, gradient = params[layer]["kernel"], gradients[layer]["kernel"]
        output = kept[name]
        sizes.append(
            {
                "layer": layer,
                "signal": float(jnp.sqrt(jnp.mean(jnp.var(output, axis=0)))),
                "constant": float(jnp.sqrt(jnp.mean(jnp.mean(output, axis=0) ** 2))),
                "gradient": float(jnp.linalg.norm(gradient) / jnp.linalg.norm(kernel)),
            }
        )
    return sizes
