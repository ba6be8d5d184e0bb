"""The mean image of other libraries' networks: Caffe's files, arrays, three numbers."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from alexnet_jax.interop import caffemodel
from alexnet_jax.interop.weight_layout import Origin
from alexnet_jax.runtime.errors import InputError, first_line


def mean_image(
    given: str | Path | None, origin: Origin, size: int
) -> Float[np.ndarray, "size size 3"]:
    """What a network subtracts from RGB pixels of 0 to 255.

    Args:
      given: a .binaryproto or a .npy, or three numbers with commas between them, as
        text. Channels come first and in the network's own order, blue first for
        Caffe's; a leading axis of 1 is left out. The image may be of the stored images'
        side or of the crops'. None for the origin's mean of each channel.
      origin: how the network sees images.
      size: side of the stored images, in pixels.

    Raises:
      InputError: if it can't be read, or is of another size.
    """
    if given is None:
        return np.full((size, size, 3), origin.mean, np.float32)
    where = f"--mean={given}"
    mean = _numbers(given, where).astype(np.float32)
    mean = mean[0] if mean.ndim == 4 and len(mean) == 1 else mean
    mean = mean[:, None, None] if mean.shape == (3,) else mean
    if mean.shape not in [(3, side, side) for side in (1, origin.crop, size)]:
        raise InputError(
            f"{where} has shape {mean.shape}; three numbers, (3, {size}, {size}) or "
            f"(3, {origin.crop}, {origin.crop}) is needed"
        )
    if not np.isfinite(mean).all():
        raise InputError(f"{where} has numbers that are not finite")
    if origin.bgr:
        mean = mean[::-1]
    # Channels last. Only the centre crop is ever subtracted, whatever lies around it.
    mean = mean.transpose(1, 2, 0)
    around = size - mean.shape[0]
    border = ((around // 2, around - around // 2),) * 2
    return np.ascontiguousarray(np.pad(mean, (*border, (0, 0)), "edge"))


def _numbers(given: str | Path, where: str) -> np.ndarray:
    path = Path(given)
    parts = str(given).split(",")
    if len(parts) == 3 and not path.exists():
        try:
            return np.asarray([float(part) for part in parts])
        except ValueError:
            pass
    if path.suffix.lower() == ".binaryproto":
        return caffemodel.read_blob(path)
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False), np.float64)
    except Exception as error:
        # NumPy parses the header with Python's own parser, which raises many kinds.
        raise InputError(f"{where} can't be read ({first_line(error)})") from error
