"""The order of examples: Grain's shuffle, of many positions at once.

Grain computes one position a call, which takes 12 microseconds under the interpreter's
lock, and over 30 for a small training set: more than the rest of an image
(`experiments/benchmarks/input_pipeline`). In NumPy the same permutation costs almost
nothing, and most of that without the lock.
"""

import functools

import numpy as np
from jaxtyping import Int64, UInt64


# As `grain.MapDataset.shuffle`: a block cipher (Simon) with four rounds permutes the
# numbers of so many bits, at least 16, and is repeated until it gives an example.
_ROUNDS = 4
_LEAST_BITS = 16
# Positions computed at once, and how many such parts are kept: a batch may lie across
# two epochs, and Grain makes two batches at once.
_PART = 2**16
_PARTS_KEPT = 8


def examples_at(
    start: int, count: int, *, examples: int, seed: int
) -> Int64[np.ndarray, "count"]:
    """The examples at `count` positions, from `start` on, in the stream of all epochs.

    Each epoch has every example once, in its own order.

    Args:
      start, count: positions.
      examples: how many there are.
      seed: from 0 to 2**32 - 1; of the first epoch, and one more of each that follows.
    """
    found = np.empty(count, np.int64)
    done = 0
    while done < count:
        epoch, place = divmod(start + done, examples)
        part, first = divmod(place, _PART)
        some = _part((seed + epoch) % 2**32, part, examples)[first:][: count - done]
        found[done : done + len(some)] = some
        done += len(some)
    return found


@functools.lru_cache(_PARTS_KEPT)
def _part(seed: int, part: int, examples: int) -> UInt64[np.ndarray, "places"]:
    """The examples at the positions of a part of an epoch."""
    keys = _round_keys(seed)
    # Grain takes two bits less for 2**16 + 1 examples, and for other such powers of
    # four: too few for the last one, which then never comes, while another comes twice.
    bits = max(_LEAST_BITS, (examples - 1).bit_length())
    word = np.uint64((bits + 1) // 2)
    stop = min(examples, (part + 1) * _PART)
    found = np.arange(part * _PART, stop, dtype=np.uint64)
    if examples == 1:
        return found
    # In a small set most numbers are no example, and are permuted many times: once for
    # all costs less.
    table = None
    if examples <= _PART // 4:
        table = _permuted(np.arange(2 ** (2 * int(word)), dtype=np.uint64), keys, word)
    left = np.arange(len(found))
    while len(left):
        numbers = found[left]
        numbers = _permuted(numbers, keys, word) if table is None else table[numbers]
        found[left] = numbers
        left = left[numbers >= examples]
    return found


def _permuted(
    numbers: UInt64[np.ndarray, "count"], keys: list[int], word: np.uint64
) -> UInt64[np.ndarray, "count"]:
    """Each number encrypted, as one of twice `word` bits."""
    mask = np.uint64((1 << int(word)) - 1)

    def mixed(half: np.ndarray) -> np.ndarray:
        one, two, eight = (
            (half << np.uint64(n) | half >> (word - np.uint64(n))) & mask
            for n in (1, 2, 8)
        )
        return (one & eight) ^ two

    left, right = numbers >> word, numbers & mask
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        left = left ^ mixed(right) ^ (np.uint64(first) & mask)
        right = right ^ mixed(left) ^ (np.uint64(second) & mask)
    return left << word | right


def _round_keys(seed: int) -> list[int]:
    """The four numbers of `std::seed_seq` of C++, from one seed."""
    count, given, modulus = _ROUNDS, [seed], 2**32
    near, far = 1, 2
    words = [0x8B8B8B8B] * count

    def spread(value: int) -> int:
        return value ^ value >> 27

    for k in range(count):
        here, there, beyond = k % count, (k + near) % count, (k + far) % count
        mixed = words[here] ^ words[there] ^ words[k - 1]
        one = 1664525 * spread(mixed) % modulus
        own = len(given) if k == 0 else k + (given[0] if k == 1 else 0)
        two = (one + own) % modulus
        words[there] = (words[there] + one) % modulus
        words[beyond] = (words[beyond] + two) % modulus
        words[here] = two
    for k in range(count):
        here, there, beyond = k % count, (k + near) % count, (k + far) % count
        mixed = (words[here] + words[there] + words[k - 1]) % modulus
        one = 1566083941 * spread(mixed) % modulus
        two = (one - k) % modulus
        words[there] ^= one
        words[beyond] ^= two
        words[here] = two
    return words
