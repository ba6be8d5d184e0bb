"""Each image to mean 0 and variance 1 (Zhang et al. 2017, appendix A)."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def standardize(
    images: Float[Array, "batch height width colours"],
) -> Float[Array, "batch height width colours"]:
    """Subtract each image's own mean and divide by its own standard deviation.

    Over pixels and colours together. A deviation below that of an image whose only
    variation is one pixel of 1, about `1 / sqrt(pixels x colours)`, counts as that, so
    that an image of one colour becomes zeros.
    """
    axes = (1, 2, 3)
    centred = images - jnp.mean(images, axis=axes, keepdims=True)
    deviations = jnp.sqrt(jnp.mean(jnp.square(centred), axis=axes, keepdims=True))
    numbers = images.shape[1] * images.shape[2] * images.shape[3]
    return centred / jnp.maximum(deviations, numbers**-0.5)
