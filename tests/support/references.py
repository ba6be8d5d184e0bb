"""References that are not the code under test: literal loops in NumPy."""

import numpy as np


def channel_loop(
    x: np.ndarray, size: int, k: float, alpha: float, beta: float
) -> np.ndarray:
    """The formula of section 3.3, one value at a time, in float64."""
    x = x.astype(np.float64)
    y = np.empty_like(x)
    channels = x.shape[-1]
    for place in np.ndindex(x.shape[:-1]):
        for i in range(channels):
            total = 0.0
            for j in range(max(0, i - size // 2), min(channels - 1, i + size // 2) + 1):
                total += x[place][j] ** 2
            y[place][i] = x[place][i] / (k + alpha * total) ** beta
    return y


def map_loop(
    x: np.ndarray, size: int, k: float, alpha: float, beta: float
) -> np.ndarray:
    """The 2012 code's norm over a square of places in one channel."""
    x = x.astype(np.float64)
    y = np.empty_like(x)
    reach = size // 2
    for n, row, column, channel in np.ndindex(x.shape):
        window = x[
            n,
            max(0, row - reach) : row + reach + 1,
            max(0, column - reach) : column + reach + 1,
            channel,
        ]
        total = (window**2).sum()
        y[n, row, column, channel] = (
            x[n, row, column, channel] / (k + alpha * total) ** beta
        )
    return y


def recount(
    logits: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> dict[str, np.number]:
    """Loss and errors of averaged probabilities, in float64."""
    logits = logits.astype(np.float64)
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = (shifted / shifted.sum(-1, keepdims=True)).mean(1)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    places = np.argmax(order == labels[:, None], axis=1)
    loss = -np.log(probabilities[np.arange(len(labels)), labels])
    return {
        "loss": loss[mask].sum(),
        "top1_error": (places >= 1)[mask].sum(),
        "top5_error": (places >= 5)[mask].sum(),
        "examples": mask.sum(),
    }


def windows(size: int, window: int, stride: int, partial: bool) -> list[range]:
    """The values of each window along a side, straight from the definition."""
    found, start = [], 0
    while start + window <= size or (partial and start + window - stride < size):
        found.append(range(start, min(start + window, size)))
        start += stride
    return found


def pool_loop(x: np.ndarray, window: int, stride: int, partial: bool) -> np.ndarray:
    rows = windows(x.shape[1], window, stride, partial)
    columns = windows(x.shape[2], window, stride, partial)
    y = np.empty((x.shape[0], len(rows), len(columns), x.shape[3]), x.dtype)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            y[:, i, j] = x[:, row][:, :, column].max(axis=(1, 2))
    return y
