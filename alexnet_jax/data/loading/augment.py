"""Random crop, horizontal flip and colour shift (section 4.1), in NumPy.

The 2012 code draws a crop and a flip for 32 images in a row; here every image has its
own. What is drawn for an example is a function of the seed and of its position in the
stream of examples alone.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, UInt8, UInt64
from scipy.special import betaincinv, ndtri


# Philox is a counter-based generator. Each position owns eight 64-bit words, two of the
# generator's blocks, and the words of a whole batch are drawn at once: a generator for
# each example would cost more than all its draws.
_WORDS = 8
_WORDS_IN_BLOCK = 4
_STREAM = 2012


class Draws(NamedTuple):
    """The random choices for examples in a row.

    Attributes:
      rows, columns: the crop's place, each from 0 to the border.
      flipped: whether the crop is flipped left to right.
      normals: standard normal amounts, one for each principal direction of colour.
      uniforms: between 0 and 1, for `boxes`.
      mixing: between 0 and 1, for `weights`.
    """

    rows: Int64[np.ndarray, "count"]
    columns: Int64[np.ndarray, "count"]
    flipped: Bool[np.ndarray, "count"]
    normals: Float[np.ndarray, "count 3"]
    uniforms: Float[np.ndarray, "count 4"]
    mixing: Float[np.ndarray, "count"]


def draw(seed: int, start: int, count: int, *, border: int) -> Draws:
    """The draws of `count` positions, from `start` on, in the stream of all epochs.

    Rows and columns go from 0 to `border`. Each of the border + 1 values is equally
    likely, to one part in 2**32 / (border + 1).
    """
    words = words_at(seed, _STREAM, start, count)
    high = words[:, :2] >> np.uint64(32)
    places = ((high * np.uint64(border + 1)) >> np.uint64(32)).astype(np.int64)
    uniform = uniform_of(words[:, 3:])
    # The halves of words whose other half decides a crop.
    halves = ((words[:, :3] & np.uint64(2**32 - 1)) + 0.5) * 2.0**-32
    return Draws(
        rows=places[:, 0],
        columns=places[:, 1],
        flipped=words[:, 2] >> np.uint64(63) == 1,
        normals=ndtri(uniform[:, :3]),
        uniforms=np.concatenate([uniform[:, 4:], halves], axis=1),
        mixing=uniform[:, 3],
    )


def words_at(
    seed: int, stream: int, start: int, count: int
) -> UInt64[np.ndarray, "count words"]:
    """The eight random words of each of `count` positions in a stream."""
    key = np.random.SeedSequence([seed, stream]).generate_state(2, np.uint64)
    counter = start * (_WORDS // _WORDS_IN_BLOCK)
    words = np.random.Philox(key=key, counter=counter).random_raw(_WORDS * count)
    return words.reshape(count, _WORDS)


def uniform_of(words: UInt64[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Numbers of the open interval (0, 1), so that the inverse of the normal's
    distribution is finite."""
    return ((words >> np.uint64(12)) + 0.5) * 2.0**-52


def boxes(
    uniforms: Float[np.ndarray, "count 4"], *, size: int, area: float
) -> Int32[np.ndarray, "count 4"]:
    """Boxes of random area and shape within stored images, which are then resized to
    crops (Szegedy et al. 2015): top, left, height and width, in pixels.

    Args:
      uniforms: what decides a box: its area, shape, top and left.
      size: side of the stored images.
      area: the least area, as a fraction of the image's. Areas up to the whole are
        equally likely, and so are the logarithms of width by height from 3/4 to 4/3; a
        side that would be longer than the image's is as long as that.
    """
    areas = (area + (1 - area) * uniforms[:, 0]) * size**2
    shapes = np.exp((2 * uniforms[:, 1] - 1) * np.log(4 / 3))
    sides = np.stack([np.sqrt(areas / shapes), np.sqrt(areas * shapes)], axis=1)
    sides = np.clip(np.rint(sides), 1, size)
    places = np.floor(uniforms[:, 2:] * (size + 1 - sides))
    return np.concatenate([places, sides], axis=1).astype(np.int32)


def weights(
    mixing: Float[np.ndarray, "count"], *, alpha: float
) -> Float[np.ndarray, "count"]:
    """Each image's own weight where pairs of images are mixed (mixup, Zhang et al.
    2018): of the distribution Beta(alpha, alpha), the same for both of a pair."""
    pairs = np.repeat(mixing[::2], 2)[: len(mixing)]
    return np.asarray(betaincinv(alpha, alpha, pairs), np.float32)


def view(
    image: UInt8[np.ndarray, "size size 3"],
    row: int,
    column: int,
    crop: int,
    flipped: bool,
) -> UInt8[np.ndarray, "crop crop 3"]:
    """A crop at one of (border + 1)**2 places, flipped or not; a view, not a copy.

    With 224 of 256 that is 33 x 33 x 2 = 2178 views, as in the 2012 code; the paper
    says 2048.
    """
    cut = image[row : row + crop, column : column + crop]
    return cut[:, ::-1] if flipped else cut


def put(
    target: UInt8[np.ndarray, "crop crop 3"],
    image: UInt8[np.ndarray, "size size 3"],
    row: int,
    column: int,
    flipped: bool,
) -> None:
    """Copy a crop into an array of its size; see `view`."""
    cut = view(image, row, column, len(target), flipped)
    if not flipped:
        target[...] = cut
        return
    # NumPy copies pixels backwards three bytes at a time; a colour at a time takes a
    # fifth of that.
    for colour in range(3):
        target[..., colour] = cut[..., colour]


def put_resized(
    target: UInt8[np.ndarray, "crop crop 3"],
    image: UInt8[np.ndarray, "size size 3"],
    box: Int32[np.ndarray, "4"],
    flipped: bool,
) -> None:
    """Resize a box of an image (see `boxes`) to an array's size, flipped or not.

    Bilinear, in whole numbers, so that every machine and every device
    (`training.held.cut_boxes`) computes the same bits.
    """
    top, left, height, width = box.tolist()
    part = image[top : top + height, left : left + width].astype(np.uint32)
    first, second, weight = _samples(height, len(target))
    weight = weight[:, None, None]
    rows = (256 - weight) * part[first] + weight * part[second]
    first, second, weight = _samples(width, len(target))
    weight = weight[:, None]
    pixels = (256 - weight) * rows[:, first] + weight * rows[:, second]
    pixels = (pixels + 2**15) >> 16
    target[...] = pixels[:, ::-1] if flipped else pixels


def _samples(length: int, crop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel of a crop the two pixels of a box that it lies between, along one
    axis, and the second one's weight in 256ths."""
    centres = (2 * np.arange(crop, dtype=np.uint32) + 1) * np.uint32(128 * length)
    places = np.clip(centres // np.uint32(crop), 128, 256 * length - 128) - 128
    first = places >> 8
    return first, np.minimum(first + 1, length - 1), (places & 255).astype(np.uint32)


def colour_shifts(
    normals: Float[np.ndarray, "count 3"],
    *,
    deviations: Float[np.ndarray, "3"],
    directions: Float[np.ndarray, "3 3"],
) -> Float[np.ndarray, "count 3"]:
    """Shifts of the three colours along the data set's principal directions.

    The device multiplies them by the coefficient, 0.1 in the paper.
    """
    # Summed by hand: a matrix product's order of summation may depend on how many rows
    # it has, and so a shift's bits on the batch size.
    amounts = normals * deviations
    shifts = sum(amounts[:, k, None] * directions[None, :, k] for k in range(3))
    return np.asarray(shifts, np.float32)
