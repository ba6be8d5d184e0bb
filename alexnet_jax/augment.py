"""Random crop, mirror image and colour shift (section 4.1): NumPy in, NumPy out.

The 2012 code shares a crop's place and mirror among 32 pictures in a row; here every
picture has its own. The draws are made whether they are used or not, so that switching
one off leaves the others as they were.
"""

import numpy as np
from jaxtyping import Float, UInt8


def random_view(
    picture: UInt8[np.ndarray, "size size 3"],
    rng: np.random.Generator,
    *,
    crop: int,
    crops: bool = True,
    flip: bool = True,
) -> UInt8[np.ndarray, "crop crop 3"]:
    """A crop at one of (border + 1)**2 places, or its mirror image.

    With 224 of 256 that is 33 x 33 x 2 views; the paper says 2048, the 2012 code cuts
    2178.

    Args:
      picture: the stored picture.
      rng: gives the same view for the same state.
      crop: side of the crop, in pixels.
      crops: if not, the centre is cut.
      flip: if not, never mirrored.
    """
    border = picture.shape[0] - crop
    row, column = rng.integers(0, border + 1, size=2)
    mirrored = rng.integers(0, 2) == 1
    if not crops:
        row = column = border // 2
    view = picture[row : row + crop, column : column + crop]
    return np.ascontiguousarray(view[:, ::-1] if flip and mirrored else view)


def colour_shift(
    rng: np.random.Generator,
    *,
    deviations: Float[np.ndarray, "3"],
    directions: Float[np.ndarray, "3 3"],
) -> Float[np.ndarray, "3"]:
    """A random shift of the three colours along the data set's principal directions.

    The device multiplies it by the coefficient, 0.1 in the paper.
    """
    amounts = rng.standard_normal(3) * deviations
    return (directions @ amounts).astype(np.float32)
